import { readdir } from 'node:fs/promises';
import { join } from 'node:path';
import { A_DAY_LATER } from './crash-campaign.js';
import type { NodesLog } from './nodes-log.js';
import type { NodesStage } from './nodes-stage.js';

/** Everything expires within moments, and is looked for as often. */
const CONFIG_OF_THE_DAY_AFTER = `
limits: { max_age: 1s }
delivery: { keep_answer: 1s }
`;

/** Longer than any lease, claim or turn that a process took to its grave. */
const PATIENCE_MS = 90_000;
const LOOK_MS = 250;

/** Ends of uploads are times by the clock of Redis, which nobody can set. */
const A_DAY_EARLIER = `
local moved = 0
for _, key in ipairs(redis.call('keys', '*:expires:*')) do
  for _, id in ipairs(redis.call('zrange', key, 0, -1)) do
    redis.call('zincrby', key, -90000000, id)
    local record = string.match(key, '^{.-}') .. ':u:' .. id
    local ends = redis.call('hget', record, 'endsAt')
    if ends then redis.call('hset', record, 'endsAt', string.format('%.0f', ends - 90000000)) end
    moved = moved + 1
  end
end
return moved
`;

/** Kills every node, and lets them find their state a day later. Fails when anything of an upload stays. */
export async function expireEverything(stage: NodesStage, log: NodesLog): Promise<void> {
  const all = Array.from({ length: stage.size }, (_, at) => at);
  await Promise.all(all.map((at) => stage.node(at).kill()));
  for (const at of all) log.read(stage.node(at));
  await stage.redis.cli('eval', A_DAY_EARLIER, '0');
  const config = (at: number): string => stage.configOf(at, CONFIG_OF_THE_DAY_AFTER);
  const nodeFlags = ['--import', A_DAY_LATER];
  await Promise.all(all.map((at) => stage.revive(at, { config: config(at), nodeFlags })));
  await untilNothingIsLeft(stage);
}

/** As long as it gets less. */
async function untilNothingIsLeft(stage: NodesStage): Promise<void> {
  let least = Infinity;
  let lessAt = Date.now();
  for (;;) {
    const left = await leftovers(stage);
    if (left.length === 0) return;
    if (left.length < least) lessAt = Date.now();
    least = Math.min(least, left.length);
    if (Date.now() - lessAt > PATIENCE_MS)
      throw new Error(`${left.length} things were left behind:\n${left.slice(0, 20).join('\n')}`);
    await new Promise((resolve) => setTimeout(resolve, LOOK_MS));
  }
}

/** Files of uploads, not those of the spool itself, keys that grow with the number of uploads, and figures that still count some. */
async function leftovers({ dataDirectories, redis }: NodesStage): Promise<string[]> {
  const spools = dataDirectories.map((data) => join(data, 'spool'));
  const files = await Promise.all(spools.map((spool) => readdir(spool).catch(() => [])));
  const keys = (await redis.cli('keys', '*')).split('\n');
  const totals = (await redis.cli('hvals', '{rufh:0}:totals')).split('\n');
  return [
    ...files.flat().filter((name) => !name.startsWith('.')),
    ...keys.filter((key) => /:[ucal]:|:(ids|due|expires)/.test(key)),
    ...totals.filter((total) => total !== '' && total !== '0').map((total) => `totals: ${total}`),
  ];
}
