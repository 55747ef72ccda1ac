import { describe, expect, test } from '@jest/globals';
import fc from 'fast-check';
import type { Guarantee } from '../../src/model/route.js';
import { DeliveryWorld, EDGES, ORIGIN_ACTS, type Edge } from '../support/delivery-world.js';

const STEPS = ['asks', 'asks and leaves', 'the operator asks', 'kill', 'nothing'] as const;
type Step = (typeof STEPS)[number];

interface Walk {
  readonly edges: readonly Edge[];
  readonly acts: readonly (typeof ORIGIN_ACTS)[number][];
  readonly steps: readonly Step[];
}

const edge = fc.oneof({ weight: 3, arbitrary: fc.constant<Edge>('well') }, fc.constantFrom(...EDGES));

const walks: fc.Arbitrary<Walk> = fc.record({
  edges: fc.array(edge, { maxLength: 14 }),
  acts: fc.array(fc.constantFrom(...ORIGIN_ACTS), { maxLength: 6 }),
  steps: fc.array(fc.constantFrom(...STEPS), { minLength: 1, maxLength: 5 }),
});

async function take(world: DeliveryWorld, step: Step): Promise<unknown> {
  switch (step) {
    case 'asks':
      return world.ask();
    case 'asks and leaves':
      return world.ask(true);
    case 'the operator asks':
      return world.redeliver();
    case 'kill':
      return world.restart();
    case 'nothing':
      return new Promise((resolve) => setTimeout(resolve, 5));
  }
}

/** Asks as a client does that wants its answer: again, when it is told to. */
async function askUntilAnswered(world: DeliveryWorld): Promise<string> {
  const heard: (string | undefined)[] = [];
  for (let count = 0; count < 20; count++) {
    const got = await world.ask();
    if (got?.startsWith('answer')) return got;
    heard.push(got);
  }
  throw new Error(`no answer but ${heard.join(', ')}`);
}

async function walk(guarantee: Guarantee, { edges, acts, steps }: Walk): Promise<void> {
  const world = await DeliveryWorld.open({ guarantee, edges, acts });
  try {
    for (const step of steps) await take(world, step);
    world.heal();
    const phase = await world.settled();
    if (guarantee === 'at_least_once') expect(phase).toBe('answered');
    else expect(world.accepted).toBeLessThanOrEqual(1 + world.permitted);

    const kept = await askUntilAnswered(world);
    if (guarantee === 'at_most_once') expect(world.accepted).toBeLessThanOrEqual(1 + world.permitted);
    const { requests } = world;
    expect(await world.ask()).toBe(kept);
    await world.restart();
    expect(await world.ask()).toBe(kept);
    expect(world.requests).toBe(requests);
    // A store that cannot record is the one thing that lets a client see an answer which a crash can still take away.
    if (!world.recordingFailed) expect(new Set(world.answersSeen)).toEqual(new Set([kept]));
  } finally {
    await world.end();
  }
}

// Issue 3: every edge of the delivery, with the store failing, the process dying and the origin misbehaving at it.
describe.each(['at_most_once', 'at_least_once'] as const)('%s', (guarantee) => {
  test('holds, whatever fails wherever: one kept answer, and no second whole request that nobody asked for', async () => {
    const runs = Number(process.env['WALKS'] ?? 60);
    await fc.assert(
      fc.asyncProperty(walks, (walked) => walk(guarantee, walked)),
      { numRuns: runs },
    );
  });

  const single = EDGES.slice(1).flatMap((kind) => Array.from({ length: 6 }, (_, at) => ({ kind, at })));
  test.each(single)('holds when the store’s call number $at $kind', async ({ kind, at }) => {
    const edges = [...Array.from({ length: at }, (): Edge => 'well'), kind];
    await walk(guarantee, { edges, acts: ['refuses'], steps: ['asks', 'asks'] });
  });
});
