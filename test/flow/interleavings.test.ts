import { afterAll, beforeAll, expect, test } from '@jest/globals';
import fc from 'fast-check';
import { join } from 'node:path';
import { randomBytes, temporaryDirectory, until, type TemporaryDirectory } from '../support/temporary.js';
import { UploadWorld, type WorldOptions } from '../support/upload-world.js';
import { UploadWriters, type Declared, type Part } from '../support/upload-writers.js';

let directory: TemporaryDirectory;
let runs = 0;

beforeAll(async () => {
  directory = await temporaryDirectory('rufh-interleavings-');
});

afterAll(async () => {
  await directory.remove();
});

/** One thing that happens: to a writer, to one of the bodies under way, or to the storage below them. */
type Step =
  | { readonly kind: 'head'; readonly writer: number }
  | { readonly kind: 'append' | 'resume'; readonly writer: number; readonly part: Part }
  | { readonly kind: 'send'; readonly which: number; readonly size: number }
  | { readonly kind: 'end' | 'cut' | 'let-go'; readonly which: number }
  | { readonly kind: 'hold'; readonly count: number }
  | { readonly kind: 'open' | 'rush' | 'patience-ends' };

interface Play {
  readonly size: number;
  readonly seed: number;
  readonly declared: Declared;
  /** The creation brings bytes itself. */
  readonly first: Part | undefined;
  readonly pace: WorldOptions['pace'];
  readonly graceMs: number;
  readonly steps: readonly Step[];
}

const part = fc.record({
  complete: fc.nat(3).map((number) => number === 0),
  isSized: fc.boolean(),
  isDigested: fc.nat(3).map((number) => number === 0),
});
const which = fc.integer({ min: -1, max: 5 });
const writer = fc.integer({ min: 0, max: 4 });
const size = fc.integer({ min: 1, max: 60 });

const step: fc.Arbitrary<Step> = fc.oneof(
  { weight: 2, arbitrary: fc.record({ kind: fc.constant('head'), writer }) },
  { weight: 2, arbitrary: fc.record({ kind: fc.constant('append'), writer, part }) },
  { weight: 4, arbitrary: fc.record({ kind: fc.constant('send'), which, size }) },
  { weight: 3, arbitrary: fc.record({ kind: fc.constantFrom('end', 'cut', 'let-go'), which }) },
  { weight: 4, arbitrary: fc.record({ kind: fc.constant('hold'), count: fc.integer({ min: 1, max: 3 }) }) },
  { weight: 3, arbitrary: fc.record({ kind: fc.constantFrom('open', 'rush', 'patience-ends') }) },
);

const NEWEST = { which: -1 } as const;

/** What clients mostly do: ask, send something, and lose the connection, stall or come to an end. */
const attempt: fc.Arbitrary<Step[]> = fc
  .record({ writer, part, sizes: fc.array(size, { maxLength: 3 }), last: fc.constantFrom('end', 'cut', 'rush') })
  .map(({ writer, part, sizes, last }) => [
    { kind: 'resume', writer, part },
    ...sizes.map((size) => ({ kind: 'send', size, ...NEWEST }) as const),
    last === 'rush' ? { kind: last } : { kind: last, ...NEWEST },
  ]);

const steps = fc
  .array(fc.oneof(attempt, fc.array(step, { maxLength: 4 })), { minLength: 3, maxLength: 10 })
  .map((groups) => groups.flat());

/** Holders that are waited for as long as it takes, and holders that are passed over almost at once. */
const PATIENT_MS = 60_000;
const IMPATIENT_MS = 1;

const play: fc.Arbitrary<Play> = fc.record({
  size: fc.integer({ min: 1, max: 400 }),
  seed: fc.integer({ min: 1, max: 1000 }),
  declared: fc.record({ length: fc.boolean(), digest: fc.boolean() }),
  first: fc.option(part, { nil: undefined }),
  pace: fc.constantFrom(
    { bytes: 0, everyMs: 0 },
    { bytes: 1, everyMs: 1 },
    { bytes: 50, everyMs: 1 },
    { bytes: 50, everyMs: 60_000 },
  ),
  graceMs: fc.constantFrom(PATIENT_MS, IMPATIENT_MS),
  steps,
});

async function take(writers: UploadWriters, step: Step): Promise<void> {
  const { gate } = writers.world;
  switch (step.kind) {
    case 'head':
      return void writers.head(step.writer);
    case 'resume':
      return writers.resume(step.writer, step.part);
    case 'append':
      return writers.append(step.writer, step.part);
    case 'send':
      return writers.send(step.which, step.size);
    case 'end':
      return writers.end(step.which);
    case 'cut':
      return writers.cut(step.which);
    case 'let-go':
      return gate.letGo(step.which);
    case 'hold':
      return gate.hold(step.count);
    case 'open':
      return gate.open();
    case 'rush':
      return;
    case 'patience-ends':
      await new Promise((resolve) => setTimeout(resolve, 2 * IMPATIENT_MS));
  }
}

/** Everything a step leads to happens before the next one, unless that is in a rush. */
async function* played(writers: UploadWriters, steps: readonly Step[]): AsyncGenerator<number> {
  for (const [at, step] of steps.entries()) {
    await take(writers, step);
    if (step.kind !== 'rush' && steps[at + 1]?.kind !== 'rush') await writers.world.gate.quiet();
    yield at;
  }
}

function timers(): number {
  return process.getActiveResourcesInfo().filter((kind) => kind === 'Timeout').length;
}

async function begin({ pace, graceMs, size, seed, declared, first }: Play): Promise<UploadWriters> {
  const options = { directory: join(directory.path, `${runs++}`), pace, graceMs };
  const writers = new UploadWriters(await UploadWorld.open(options), randomBytes(size, seed), declared);
  await writers.create(0, first);
  return writers;
}

/** Kills the process as it stands and starts the next one on the same directory. */
async function restart(writers: UploadWriters, options: Omit<WorldOptions, 'directory'>): Promise<void> {
  const { world } = writers;
  world.gate.hold();
  writers.forget();
  await world.kill();
  expectTheFileOnly(writers);
  const next = await UploadWorld.open({ ...options, directory: world.directory });
  if (!(await next.isComplete(writers.id))) expect(await next.uncountedFiles()).toEqual([]);
  writers.world = next;
}

/** An honest client brings the rest. */
async function finish(writers: UploadWriters): Promise<void> {
  const outcome = await writers.finish();
  expect(outcome).toMatchObject({ kind: 'answered', answer: { status: 201 } });
  expectTheFileOnly(writers);
}

function expectTheFileOnly({ world, file }: UploadWriters): void {
  for (const bytes of world.delivered) expect(bytes.equals(file)).toBe(true);
}

const RUNS = { endOnFailure: true, numRuns: 300 };

test('whatever writers do to one upload in whatever order, one request with the right bytes reaches the origin', async () => {
  const before = timers();
  await fc.assert(
    fc.asyncProperty(play, async (play) => {
      const writers = await begin(play);
      for await (const at of played(writers, play.steps)) expect(at).toBeDefined();
      const { world } = writers;
      world.gate.open();
      await writers.leave();
      await finish(writers);
      expect(world.delivered).toHaveLength(1);
      expect(await world.uncountedFiles()).toEqual([]);
      expect([writers.listenersOnBodies(), world.listenersOnLeases()]).toEqual([0, 0]);
      await world.close();
    }),
    RUNS,
  );
  await until(() => timers() <= before, 'no timer is left');
});

test('a process that dies anywhere in between is followed by one that knows every offset that was shown', async () => {
  const deaths = fc.array(fc.nat(30), { minLength: 1, maxLength: 3 });
  await fc.assert(
    fc.asyncProperty(play, deaths, async (play, deaths) => {
      const writers = await begin(play);
      for await (const at of played(writers, play.steps))
        for (const after of deaths) if (after === at) await restart(writers, play);
      writers.world.gate.open();
      await writers.leave();
      await finish(writers);
      const { world } = writers;
      await world.sweep();
      expect(await world.uncountedFiles()).toEqual([]);
      await world.close();
    }),
    RUNS,
  );
});
