-- Records the worker that holds the claim and for how long from now. Gives the end of the claim.
local function claim(worker, ms)
  local claimedUntil = string.format('%.0f', serverTime() + ms)
  set('worker', worker, 'claimedUntil', claimedUntil, 'claimMs', ms)
  return claimedUntil
end
