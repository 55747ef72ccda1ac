import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import fc from 'fast-check';
import { type OpenRequest, type Transport, TRANSPORTS } from '../support/client.js';
import { FlowClient } from '../support/flow-client.js';
import type { ResumableUpload } from '../support/resumable-client.js';
import { randomBytes, sha256, temporaryDirectory, type TemporaryDirectory, until } from '../support/temporary.js';
import { TestProxy } from '../support/test-proxy.js';
import { GatedUploads, type GatedUploadsOptions } from '../support/upload-harness.js';
import { type Declared, type Part, UploadWriters } from '../support/upload-writers.js';
import { cases } from '../support/thoroughness.js';

describe('appends', () => {
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
    readonly pace: GatedUploadsOptions['pace'];
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
    const { gate } = writers.uploads;
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
      if (step.kind !== 'rush' && steps[at + 1]?.kind !== 'rush') await writers.uploads.gate.quiet();
      yield at;
    }
  }

  function timers(): number {
    return process.getActiveResourcesInfo().filter((kind) => kind === 'Timeout').length;
  }

  async function begin({ pace, graceMs, size, seed, declared, first }: Play): Promise<UploadWriters> {
    const options = { directory: join(directory.path, `${runs++}`), pace, graceMs };
    const writers = new UploadWriters(await GatedUploads.open(options), randomBytes(size, seed), declared);
    await writers.create(0, first);
    return writers;
  }

  /** Kills the process as it stands and starts the next one on the same directory. */
  async function restart(writers: UploadWriters, options: Omit<GatedUploadsOptions, 'directory'>): Promise<void> {
    const { uploads: gated } = writers;
    gated.gate.hold();
    writers.forget();
    await gated.kill();
    expectTheFileOnly(writers);
    const next = await GatedUploads.open({ ...options, directory: gated.directory });
    if (!(await next.isComplete(writers.id))) expect(await next.uncountedFiles()).toEqual([]);
    writers.uploads = next;
  }

  /** An honest client brings the rest. */
  async function finish(writers: UploadWriters): Promise<void> {
    const outcome = await writers.finish();
    expect(outcome).toMatchObject({ kind: 'answered', answer: { status: 201 } });
    expectTheFileOnly(writers);
  }

  function expectTheFileOnly({ uploads: gated, file }: UploadWriters): void {
    for (const bytes of gated.delivered) expect(bytes.equals(file)).toBe(true);
  }

  const RUNS = { ...cases(300), endOnFailure: true };

  test('whatever writers do to one upload in whatever order, one request with the right bytes reaches the origin', async () => {
    const before = timers();
    await fc.assert(
      fc.asyncProperty(play, async (play) => {
        const writers = await begin(play);
        for await (const at of played(writers, play.steps)) expect(at).toBeDefined();
        const { uploads: gated } = writers;
        gated.gate.open();
        await writers.leave();
        await finish(writers);
        expect(gated.delivered).toHaveLength(1);
        expect(await gated.uncountedFiles()).toEqual([]);
        expect([writers.listenersOnBodies(), gated.listenersOnLeases()]).toEqual([0, 0]);
        await gated.close();
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
        writers.uploads.gate.open();
        await writers.leave();
        await finish(writers);
        const { uploads: gated } = writers;
        await gated.sweep();
        expect(await gated.uncountedFiles()).toEqual([]);
        await gated.close();
      }),
      RUNS,
    );
  });
});

describe('sockets', () => {
  let proxy: TestProxy;
  let runs = 0;

  beforeAll(async () => {
    proxy = await TestProxy.open();
  });

  afterAll(async () => {
    await proxy.close();
  });

  /** An append under way, on a connection of its own. */
  interface Sending {
    readonly request: OpenRequest;
    readonly offset: number;
    sent: number;
    /** A newer request was answered: what it sends from now on must never count. */
    isDead: boolean;
  }

  type Step =
    /** Asks for the offset while those before it are still sending, then goes on from there. */
    | { readonly kind: 'resume'; readonly transport: Transport; readonly meanwhile: number; readonly isSized: boolean }
    | { readonly kind: 'send'; readonly which: number; readonly size: number }
    | { readonly kind: 'leave'; readonly which: number; readonly how: 'end' | 'reset' };

  const which = fc.nat(4);
  const size = fc.integer({ min: 1, max: 40_000 });
  const transport = fc.constantFrom(...TRANSPORTS);

  const step: fc.Arbitrary<Step> = fc.oneof(
    {
      weight: 2,
      arbitrary: fc.record({ kind: fc.constant('resume'), transport, meanwhile: size, isSized: fc.boolean() }),
    },
    { weight: 3, arbitrary: fc.record({ kind: fc.constant('send'), which, size }) },
    { weight: 1, arbitrary: fc.record({ kind: fc.constant('leave'), which, how: fc.constantFrom('end', 'reset') }) },
  );

  /** Several clients of one file; each of them believes that it is alone. */
  class Clients {
    readonly sending: Sending[] = [];
    private shown = 0;

    constructor(
      private readonly upload: ResumableUpload,
      private readonly file: Buffer,
    ) {}

    async resume({ transport, meanwhile, isSized }: Step & { kind: 'resume' }): Promise<void> {
      const client = new FlowClient(proxy, transport, '10');
      const older = [...this.sending];
      const [offset] = await Promise.all([
        client.at(this.upload.url).offset(),
        ...older.map((sending) => this.bring(sending, meanwhile)),
      ]);
      for (const sending of older) sending.isDead = true;
      expect(offset).toBeGreaterThanOrEqual(this.shown);
      this.shown = offset;
      const bytes = isSized ? this.file.length - offset : undefined;
      const request = await client.append(this.upload, { offset, complete: true, bytes });
      this.sending.push({ request, offset, sent: 0, isDead: false });
    }

    /** Never all of it: a body that looks whole would be the end of the game. */
    async bring(sending: Sending, size: number): Promise<void> {
      const start = sending.offset + sending.sent;
      const bytes = this.file.subarray(start, Math.min(start + size, this.file.length - 1));
      if (bytes.length === 0) return;
      sending.sent += bytes.length;
      await sending.request.send(sending.isDead ? Buffer.alloc(bytes.length, 0xff) : bytes);
    }

    async finish(): Promise<void> {
      const older = [...this.sending];
      await this.resume({ kind: 'resume', transport: 'HTTP/1.1', meanwhile: 1, isSized: true });
      const { request, offset } = this.sending.at(-1)!;
      await Promise.all(older.map((sending) => this.bring(sending, 1000)));
      await request.send(this.file.subarray(offset));
      expect((await request.readFinal()).status).toBe(200);
      expect(await this.upload.offset()).toBe(this.file.length);
      for (const { request } of this.sending) await request.close();
    }
  }

  async function take(clients: Clients, step: Step): Promise<void> {
    if (step.kind === 'resume') return clients.resume(step);
    const sending = clients.sending[step.which % Math.max(clients.sending.length, 1)];
    if (!sending) return;
    if (step.kind === 'send') return clients.bring(sending, step.size);
    sending.request.leave(step.how);
    clients.sending.splice(clients.sending.indexOf(sending), 1);
    await sending.request.close();
  }

  test('over real connections of both versions of HTTP, too, the file arrives as it is, once', async () => {
    const play = fc.record({
      fileSize: fc.integer({ min: 1000, max: 200_000 }),
      steps: fc.array(step, { minLength: 4, maxLength: 12 }),
    });
    await fc.assert(
      fc.asyncProperty(play, transport, async ({ fileSize, steps }, transport) => {
        const target = `/interleavings/${runs++}`;
        const file = randomBytes(fileSize, runs);
        const upload = await new FlowClient(proxy, transport, '10').place({ target, length: file.length });
        const clients = new Clients(upload, file);
        for (const step of steps) await take(clients, step);
        await clients.finish();
        const got = proxy.requestsFor(target).map(({ size, sha256: sum }) => ({ size, sum }));
        expect(got).toEqual([{ size: file.length, sum: sha256(file) }]);
      }),
      { ...cases(40), endOnFailure: true },
    );
  });
});
