-- Notes whose claim it is, and for how long from now. Gives its end.
local function claim(worker, ms)
  local claimedUntil = string.format('%.0f', serverTime() + ms)
  set('worker', worker, 'claimedUntil', claimedUntil, 'claimMs', ms)
  return claimedUntil
end
