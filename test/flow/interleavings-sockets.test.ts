import { afterAll, beforeAll, expect, test } from '@jest/globals';
import fc from 'fast-check';
import { TRANSPORTS, type OpenRequest, type Transport } from '../support/open-request.js';
import type { ResumableUpload } from '../support/resumable-client.js';
import { Stage } from '../support/stage.js';
import { StageClient } from '../support/stage-client.js';
import { randomBytes, sha256 } from '../support/temporary.js';

let stage: Stage;
let runs = 0;

beforeAll(async () => {
  stage = await Stage.open();
});

afterAll(async () => {
  await stage.close();
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
    const client = new StageClient(stage, transport, '10');
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
      const upload = await new StageClient(stage, transport, '10').place({ target, length: file.length });
      const clients = new Clients(upload, file);
      for (const step of steps) await take(clients, step);
      await clients.finish();
      const got = stage.requestsFor(target).map(({ size, sha256: sum }) => ({ size, sum }));
      expect(got).toEqual([{ size: file.length, sum: sha256(file) }]);
    }),
    { numRuns: 40, endOnFailure: true },
  );
});
