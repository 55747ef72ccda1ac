import { connect, type RawClient, requestOnce } from './client.js';
import { H2_PING, HTTP2_FAMILIES } from './hostile-http2.js';
import { type Attack, AttackBuilder, MESSAGE_FAMILIES, type Victim } from './hostile-messages.js';
import { resolved, UPLOAD_FAMILIES } from './hostile-uploads.js';
import { clientDialect, createUpload, progressOf, type ResumableUpload } from './resumable-client.js';
import { randomBytes, sha256, until } from './temporary.js';
import type { OriginRequest, TestOrigin } from './test-origin.js';
import { ConnectionClosed, type ResponseHead, type WireRequest } from './wire.js';

/** Ways to attack, by the HTTP version they speak. */
export const FAMILIES = { 'HTTP/1.1': [...UPLOAD_FAMILIES, ...MESSAGE_FAMILIES], 'HTTP/2': HTTP2_FAMILIES };

const FILE = randomBytes(100, 5);
const DIALECT = clientDialect('6');

/** Attacks between two good uploads; each of them has to work. */
const ATTACKS_A_BATCH = 50;
const ATTACKS_AN_EXPENDABLE = 5;

/** Attackers that do their worst side by side, and one honest client among them. */
export class HostileClients {
  readonly counts: Record<string, number> = {};
  /** What must not be seen in a log. */
  readonly uploadIds: string[] = [];
  /** Effects there must not be. */
  readonly faults: string[] = [];
  private readonly attacks = new Map<string, Attack>();
  private readonly lingering: RawClient[] = [];

  constructor(
    private readonly url: string,
    private readonly origin: TestOrigin,
    private readonly options: { readonly seed: number; readonly version: keyof typeof FAMILIES },
  ) {}

  get size(): number {
    return this.attacks.size;
  }

  /** `lanes` attackers with `attacks` attacks each. */
  async run(lanes: number, attacks: number): Promise<void> {
    await Promise.all(Array.from({ length: lanes }, (_, lane) => this.attack(lane, attacks)));
    this.dropLingering();
    this.checkOrigin();
  }

  private async attack(lane: number, attacks: number): Promise<void> {
    const victim = await this.open(`victim-${lane}`);
    let expendable = victim;
    for (let count = 0; count < attacks; count++) {
      const marker = `${lane}.${count}`;
      if (count % ATTACKS_AN_EXPENDABLE === 0) expendable = await this.open(`expendable-${marker}`);
      const targets: Victim = { target: victim.target, expendable: expendable.target, host: new URL(this.url).host };
      const builder = new AttackBuilder(this.options.seed * 1_000_003 + lane * 10_007 + count, targets, marker);
      const attack = builder.of(FAMILIES[this.options.version])(builder);
      this.counts[attack.family] = (this.counts[attack.family] ?? 0) + 1;
      this.attacks.set(marker, attack);
      await this.withstand(attack, lane);
      if (count % ATTACKS_A_BATCH === ATTACKS_A_BATCH - 1) await this.endBatch(lane, count);
    }
    await this.finish(victim, `victim-${lane}`);
  }

  private async withstand(attack: Attack, lane: number): Promise<void> {
    const client = await connect(this.url);
    try {
      const isHttp2 = attack.bytes.startsWith('PRI * HTTP/2.0\r\n\r\nSM');
      await client.send(isHttp2 && attack.then === 'wait' ? attack.bytes + H2_PING : attack.bytes);
      if (attack.then === 'linger') return void this.lingering.push(client);
      if (attack.then === 'reset') return client.reset();
      if (attack.then === 'end') client.end();
      if (isHttp2) await hearFrames(client);
      else judge(attack, await hear(client, attack));
    } catch (error) {
      const bytes = JSON.stringify(attack.bytes.slice(0, 1500));
      this.faults.push(`${attack.family} in lane ${lane}: ${(error as Error).message}: ${bytes}`);
    } finally {
      if (attack.then !== 'linger') client.destroy();
    }
  }

  /** Nothing that happened before keeps a good upload from its origin. */
  private async endBatch(lane: number, count: number): Promise<void> {
    this.dropLingering();
    const name = `good-${lane}.${count}`;
    await this.finish(await this.open(name), name);
  }

  private dropLingering(): void {
    for (const client of this.lingering.splice(0)) client.destroy();
  }

  private async open(marker: string): Promise<ResumableUpload> {
    const headers = [['X-Marker', marker]] as const;
    const first = { method: 'POST', target: '/files/good', headers, body: FILE.subarray(0, 10), length: FILE.length };
    const upload = await createUpload(DIALECT, (request: WireRequest) => requestOnce(this.url, request), first);
    this.uploadIds.push(upload.target.split('/').at(-1)!);
    return upload;
  }

  /** It has its first ten bytes still, takes the rest, and the origin gets the whole. */
  private async finish(upload: ResumableUpload, marker: string): Promise<void> {
    const { offset } = progressOf(DIALECT, await upload.retrieve());
    if (offset !== 10) throw new Error(`${marker} was changed: its offset is ${offset}`);
    const response = await upload.finish(FILE, 60);
    const arrived = this.origin.requests.filter((request) => request.header('x-marker') === marker);
    if (response.status !== 200 || arrived.length !== 1 || arrived[0]?.sha256 !== sha256(FILE))
      throw new Error(`${marker} was answered with ${response.status} and arrived ${arrived.length} times`);
  }

  private checkOrigin(): void {
    const seen = new Map<string, number>();
    for (const request of this.origin.requests) {
      const marker = request.header('x-marker') ?? '';
      const fault = this.faultOf(request, this.attacks.get(marker), /^(good|victim|expendable)-/.test(marker));
      const times = (seen.get(marker) ?? 0) + 1;
      seen.set(marker, times);
      if (fault !== undefined || times > 1)
        this.faults.push(`the origin got ${request.method} ${request.target} (${marker}): ${fault ?? 'twice'}`);
    }
  }

  private faultOf(request: OriginRequest, attack: Attack | undefined, isGood: boolean): string | undefined {
    const carrier = request.header('x-smuggled');
    if (carrier !== undefined) return `smuggled by ${JSON.stringify(this.attacks.get(carrier)?.bytes ?? carrier)}`;
    if (resolved(request.target).startsWith('/.uploads/')) return 'it belongs to an upload resource';
    if (isGood) return undefined;
    if (!attack) return 'nobody sent it';
    if (attack.verdict === 'refused') return `${attack.family} had to be refused: ${JSON.stringify(attack.bytes)}`;
    return attack.isCut && request.ended === 'whole' ? 'it never ended' : undefined;
  }
}

interface Heard {
  readonly interims: readonly ResponseHead[];
  readonly finals: readonly ResponseHead[];
}

/** Reads responses until there is one, or until the end where one is due. What is no proper response fails. */
async function hear(client: RawClient, attack: Attack): Promise<Heard> {
  const interims: ResponseHead[] = [];
  const finals: ResponseHead[] = [];
  try {
    while (attack.closes === true || attack.then !== 'wait' || finals.length === 0) {
      const head = await client.readHead();
      if (!head) break;
      if (head.status < 200) interims.push(head);
      else {
        await client.bodyOf(head).readAll();
        finals.push(head);
      }
    }
  } catch (error) {
    if (!(error instanceof ConnectionClosed) || attack.verdict !== 'anything') throw error;
  }
  return { interims, finals };
}

function judge(attack: Attack, { interims, finals }: Heard): void {
  const [first] = finals;
  if (finals.some((head) => head.header('X-Injected') !== undefined)) throw new Error('the answer has a line of ours');
  const isAnswered = first !== undefined || attack.verdict === 'anything';
  if (!isAnswered) throw new Error('it was not answered');
  if (attack.verdict !== 'refused') return;
  if (first!.status < 400) throw new Error(`it was answered with ${first!.status}`);
  if (interims.some(({ status }) => status === 104)) throw new Error('it was told of an upload');
  if (attack.closes && finals.length > 1) throw new Error(`what followed it was answered with ${finals[1]?.status}`);
}

/** Reads frames until our ping is answered, the proxy takes leave, or the connection ends. */
async function hearFrames(client: RawClient): Promise<void> {
  let heard = Buffer.alloc(0);
  let isOver = false;
  client.socket.on('data', (bytes: Buffer) => (heard = Buffer.concat([heard, bytes])));
  client.socket.on('end', () => (isOver = true)).on('close', () => (isOver = true));
  const isDone = (): boolean => isOver || frameTypes(heard).some((type) => type === GOAWAY || type === PING_ACK);
  await until(isDone, () => `an end of the connection: ${heard.toString('latin1')}`);
}

const GOAWAY = 0x700;
const PING_ACK = 0x601;

/** Type and flags of each whole frame. */
function frameTypes(bytes: Buffer): number[] {
  const types: number[] = [];
  for (let at = 0; at + 9 <= bytes.length; at += 9 + bytes.readUIntBE(at, 3)) types.push(bytes.readUInt16BE(at + 3));
  return types;
}
