import type { HeaderLine } from '../../src/model/headers.js';
import type { CrashClient } from './crash-client.js';
import type { Creation } from './crash-world.js';
import { startFakeOrigin, type FakeAnswer, type FakeOrigin, type OriginRequest } from './fake-origin.js';

/** An origin that answers each upload as its plan says, and knows at last what it should not have been sent. */
export class CrashOrigin {
  readonly clients: CrashClient[] = [];
  /** Asked before each answer: whether there is one. */
  isWell: () => boolean | Promise<boolean> = () => true;
  private readonly markers = new Map<string, CrashClient>();
  private answers = 0;

  private constructor(private readonly origin: FakeOrigin) {
    origin.answerWith((request) => this.answerTo(request));
  }

  static async start(): Promise<CrashOrigin> {
    return new CrashOrigin(await startFakeOrigin());
  }

  get url(): string {
    return this.origin.url;
  }

  get requests(): number {
    return this.origin.requests.length;
  }

  /** From now on it knows this client's upload. */
  expect(client: CrashClient): void {
    this.clients.push(client);
    this.markers.set(client.plan.name, client);
  }

  /** Whether this client's upload is on its way to it, or waits for its answer. */
  hasBefore({ creations }: CrashClient): boolean {
    const marker = creations.at(-1)?.marker;
    return this.origin.requests.some((request) => !request.finished && request.header('X-Creation') === marker);
  }

  /** A second request for one POST is right only when its client knew that there might have been a first. */
  check(isKnown: (client: CrashClient, creation: Creation) => number = (_, { toldUnknown }) => toldUnknown): void {
    for (const client of this.clients)
      for (const creation of client.creations) this.checkCreation(client, creation, isKnown(client, creation));
  }

  close(): Promise<void> {
    return this.origin.close();
  }

  private async answerTo(request: OriginRequest): Promise<FakeAnswer> {
    // Thousands of bodies would be too much to remember.
    request.body = Buffer.alloc(0);
    const isWell = await this.isWell();
    const marker = request.header('X-Creation') ?? '';
    const client = this.markers.get(marker.split('.')[0]!);
    if (!client) return { status: 500, body: 'no such upload' };
    if (!isWell) return { hangUp: true };
    const { status, answerSize } = client.plan;
    const headers: HeaderLine[] = [
      ['X-Got', `${marker} ${request.sha256}`],
      ['X-Serial', `${this.answers++}`],
    ];
    return { status, headers, body: Buffer.alloc(answerSize, marker) };
  }

  private checkCreation({ plan }: CrashClient, { marker }: Creation, repeats: number): void {
    const all = this.origin.requests.filter((request) => request.header('X-Creation') === marker);
    const whole = all.filter(({ ended }) => ended === 'whole');
    const wrong = whole.find((request) => request.sha256 !== plan.sha256 || request.method !== plan.method);
    if (wrong) throw new Error(`wrong bytes at the origin: ${marker} ${wrong.size}`);
    const keys = new Set(all.map((request) => request.header('Idempotency-Key')));
    if (keys.size > 1) throw new Error(`${marker} came under ${keys.size} keys`);
    if (plan.method === 'POST' && whole.length > 1 + repeats)
      throw new Error(`${marker} was sent ${whole.length} times, its client permitted ${repeats} repetitions`);
  }
}
