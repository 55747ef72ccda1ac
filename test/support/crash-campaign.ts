import { readdir } from 'node:fs/promises';
import { join } from 'node:path';
import { CrashClient, type CrashWorld } from './crash-client.js';
import { Chance, type CrashEvent, type Moment, type Sync } from './crash-plan.js';
import { Trigger } from './crash-trigger.js';
import { startFakeOrigin, type FakeAnswer, type FakeOrigin, type OriginRequest } from './fake-origin.js';
import { ProxyProcess } from './proxy.js';
import { freePort, temporaryDirectory, until, type TemporaryDirectory } from './temporary.js';

const CONFIG = `
uploads: { rfc104: true }
delivery: { keep_answer_size: 16KiB, retry: { attempts: 50, first_delay: 20ms, longest_delay: 100ms } }
routes:
  - match: { path: /eager/** }
    delivery: { mode: eager }
  - match: { path: /files/** }
`;

/** Everything expires within moments, and is looked for as often. */
const CONFIG_OF_THE_DAY_AFTER = `
limits: { max_age: 1s }
delivery: { keep_answer: 1s }
`;

const A_DAY_LATER = `data:text/javascript,${encodeURIComponent('const now = Date.now; Date.now = () => now() + 25 * 3_600_000;')}`;

/** How many uploads are under way at a time. */
const LANES = 4;

export interface CampaignSummary {
  readonly kills: number;
  /** What the kills were aimed at, and what uploads were doing when they came. */
  readonly aimedAt: Readonly<Record<string, number>>;
  readonly during: Readonly<Record<string, number>>;
  readonly uploads: number;
  readonly cancelled: number;
  readonly mebibytes: number;
  readonly requestsAtOrigin: number;
  readonly toldUnknown: number;
}

/** Uploads without end, and a proxy that is killed again and again. Rejects with the first promise that was broken. */
export class CrashCampaign implements CrashWorld {
  kills = 0;
  readonly chance: Chance;
  private readonly aimedAt: Record<string, number> = {};
  private readonly during: Record<string, number> = {};
  private readonly trigger = new Trigger();
  private readonly clients: CrashClient[] = [];
  private readonly markers = new Map<string, CrashClient>();
  private readonly faults: string[] = [];
  private proxy: Promise<ProxyProcess>;
  private over = false;

  private constructor(
    seed: number,
    private readonly origin: FakeOrigin,
    private readonly directory: TemporaryDirectory,
    private readonly listen: string,
  ) {
    this.chance = new Chance(seed);
    this.proxy = this.start();
    origin.answerWith((request) => this.answerOf(request));
  }

  static async open(seed: number): Promise<CrashCampaign> {
    const origin = await startFakeOrigin();
    const directory = await temporaryDirectory('rufh-crash-');
    return new CrashCampaign(seed, origin, directory, `127.0.0.1:${await freePort()}`);
  }

  async run(rounds: number): Promise<CampaignSummary> {
    const killing = this.killInRounds(rounds);
    const lanes = Array.from({ length: LANES }, () => this.uploadUntilOver());
    await Promise.all([killing, ...lanes]);
    await this.killAndRestart();
    for (const client of this.clients) await client.askAgain();
    this.checkOrigin();
    await this.checkExpiry();
    return this.summary();
  }

  async close(): Promise<void> {
    this.over = true;
    this.trigger.disarm();
    const proxy = await this.proxy.catch(() => undefined);
    await proxy?.stop();
    await this.origin.close();
    await this.directory.remove();
  }

  async url(): Promise<string> {
    return (await this.proxy).url;
  }

  notice(event: CrashEvent, count?: number): void {
    this.trigger.notice(event, count);
  }

  private async uploadUntilOver(): Promise<void> {
    while (!this.over) {
      const client = new CrashClient(this.chance.upload(), this);
      this.clients.push(client);
      this.markers.set(client.plan.name, client);
      await client.run();
      if (client.answer && this.chance.happens(0.3)) await client.askAgain();
    }
  }

  private async killInRounds(rounds: number): Promise<void> {
    try {
      for (let round = 0; round < rounds; round++) await this.killAt(this.chance.moment());
    } finally {
      this.over = true;
    }
  }

  private async killAt(moment: Moment): Promise<void> {
    if (moment.event === 'spawned') return this.killAndRestart(moment.delayMs);
    const { proxy } = this;
    const running = await proxy;
    await this.trigger.arm(moment, () => this.kill(running, moment.event));
    await this.restart(running);
  }

  /** Once as it is and, if asked for, once more within its next start. */
  private async killAndRestart(againAfterMs?: number): Promise<void> {
    const running = await this.proxy;
    this.kill(running, 'now');
    await this.restart(running, againAfterMs);
  }

  private kill(proxy: ProxyProcess, why: string): void {
    this.kills++;
    this.aimedAt[why] = (this.aimedAt[why] ?? 0) + 1;
    for (const client of this.clients) {
      const stage = this.isAtOrigin(client) ? 'delivering' : client.stage;
      if (stage !== 'over') this.during[stage] = (this.during[stage] ?? 0) + 1;
    }
    process.kill(proxy.pid, 'SIGKILL');
  }

  /** From here on clients wait for the next process. */
  private async restart(dead: ProxyProcess, killAfterMs?: number): Promise<void> {
    this.proxy = this.replace(dead, killAfterMs);
    await this.proxy;
  }

  private async replace(dead: ProxyProcess, killAfterMs?: number): Promise<ProxyProcess> {
    await this.bury(dead);
    if (killAfterMs !== undefined) {
      const stillborn = await this.spawn();
      await new Promise((resolve) => setTimeout(resolve, killAfterMs));
      this.kill(stillborn, 'spawned');
      await this.bury(stillborn);
    }
    return this.start();
  }

  private async bury(dead: ProxyProcess): Promise<void> {
    await dead.exited;
    for (const line of dead.log) if (isFault(line)) this.faults.push(JSON.stringify(line));
    this.faults.push(...dead.errors);
    await dead.stop();
  }

  private async start(): Promise<ProxyProcess> {
    return (await this.spawn()).listening();
  }

  private spawn(changes: { config?: string; nodeFlags?: string[] } = {}): Promise<ProxyProcess> {
    const sync: Sync = this.chance.sync();
    const { url } = this.origin;
    const data = this.data;
    return ProxyProcess.spawn({
      origin: url,
      data,
      listen: this.listen,
      config: CONFIG,
      flags: ['--sync', sync],
      ...changes,
    });
  }

  private get data(): string {
    return join(this.directory.path, 'data');
  }

  /** A second request for one POST is right only when its client knew that there might have been a first. */
  private answerOf(request: OriginRequest): FakeAnswer {
    const kills = this.kills;
    this.notice('at-origin');
    const marker = request.header('X-Creation') ?? '';
    const client = this.markers.get(marker.split('.')[0]!);
    if (!client) return { status: 500, body: 'no such upload' };
    if (kills !== this.kills) return { hangUp: true };
    const { status, answerSize } = client.plan;
    const headers = [['X-Got', `${marker} ${request.sha256}`] as const];
    return { status, headers, body: Buffer.alloc(answerSize, marker) };
  }

  private isAtOrigin({ creations }: CrashClient): boolean {
    const marker = creations.at(-1)?.marker;
    return this.origin.requests.some((request) => !request.finished && request.header('X-Creation') === marker);
  }

  private checkOrigin(): void {
    for (const { plan, creations } of this.clients) {
      for (const { marker, toldUnknown } of creations) {
        const all = this.origin.requests.filter((request) => request.header('X-Creation') === marker);
        const whole = all.filter(({ ended }) => ended === 'whole');
        const wrong = whole.find((request) => request.sha256 !== plan.sha256 || request.method !== plan.method);
        if (wrong) throw new Error(`wrong bytes at the origin: ${marker} ${wrong.size}`);
        const keys = new Set(all.map((request) => request.header('Idempotency-Key')));
        if (keys.size > 1) throw new Error(`${marker} came under ${keys.size} keys`);
        if (plan.method === 'POST' && whole.length > 1 + toldUnknown)
          throw new Error(
            `${marker} was sent ${whole.length} times, its client knew of ${toldUnknown} unknown outcomes`,
          );
      }
    }
  }

  private async checkExpiry(): Promise<void> {
    const running = await this.proxy;
    this.kill(running, 'now');
    await this.bury(running);
    const next = this.spawn({ config: CONFIG_OF_THE_DAY_AFTER, nodeFlags: ['--import', A_DAY_LATER] });
    this.proxy = next.then((proxy) => proxy.listening());
    await this.proxy;
    const left = async (): Promise<string[]> =>
      (await Promise.all(['uploads', 'spool'].map((name) => readdir(join(this.data, name))))).flat();
    await until(async () => (await left()).length === 0, 'nothing to be left behind', 20_000);
    if (this.faults.length > 0) throw new Error(`the proxy complained:\n${this.faults.join('\n')}`);
  }

  private summary(): CampaignSummary {
    const creations = this.clients.flatMap((client) => client.creations);
    return {
      kills: this.kills,
      aimedAt: this.aimedAt,
      during: this.during,
      uploads: this.clients.length,
      cancelled: this.clients.filter(({ isCancelled }) => isCancelled).length,
      mebibytes: Math.round(this.clients.reduce((sum, { plan }) => sum + plan.bytes.length, 0) / 2 ** 20),
      requestsAtOrigin: this.origin.requests.length,
      toldUnknown: creations.reduce((sum, creation) => sum + creation.toldUnknown, 0),
    };
  }
}

function isFault({ level }: Record<string, unknown>): boolean {
  return level === 'error' || level === 'fatal';
}
