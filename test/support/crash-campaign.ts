import { readdir } from 'node:fs/promises';
import { join } from 'node:path';
import { Campaign, type CampaignFigures } from './campaign.js';
import { Chance, type CampaignEvent, CampaignOrigin, type Moment, type Sync, Trigger } from './campaign-plan.js';
import { ProxyProcess } from './proxy-process.js';
import { serverPort, temporaryDirectory, type TemporaryDirectory, until } from './temporary.js';

const CONFIG = `
uploads: { rfc104: true }
delivery: { keep_answer_size: 16KiB, retry: { attempts: 50, first_delay: 20ms, longest_delay: 100ms } }
routes:
  - match: { path: /eager/** }
    delivery: { mode: eager }
  - match: { path: /files/** }
`;

/** Everything expires within moments, and is looked for as often. */
const EXPIRY_CONFIG = `
limits: { max_age: 1s }
delivery: { keep_answer: 1s }
`;

/** For `node --import`: what it runs believes that it is tomorrow. */
export const A_DAY_LATER = `data:text/javascript,${encodeURIComponent('const now = Date.now; Date.now = () => now() + 25 * 3_600_000;')}`;

/** How many uploads are under way at a time. */
const LANES = 4;

export interface CrashSummary extends CampaignFigures {
  readonly kills: number;
  /** What the kills were aimed at, and what uploads were doing when they came. */
  readonly aimedAt: Readonly<Record<string, number>>;
  readonly during: Readonly<Record<string, number>>;
}

/** Uploads without end, and a proxy that is killed again and again. Rejects with the first promise that was broken. */
export class CrashCampaign extends Campaign {
  kills = 0;
  readonly hasParts = false;
  private readonly aimedAt: Record<string, number> = {};
  private readonly during: Record<string, number> = {};
  private readonly trigger = new Trigger();
  private readonly faults: string[] = [];
  private proxy: Promise<ProxyProcess>;

  private constructor(
    seed: number,
    origin: CampaignOrigin,
    private readonly directory: TemporaryDirectory,
    private readonly listen: string,
  ) {
    super(new Chance(seed), origin);
    this.proxy = this.start();
    origin.isWell = () => {
      const { kills } = this;
      this.notice('at-origin');
      return kills === this.kills;
    };
  }

  static async open(seed: number): Promise<CrashCampaign> {
    const origin = await CampaignOrigin.start();
    const directory = await temporaryDirectory('rufh-crash-');
    return new CrashCampaign(seed, origin, directory, `127.0.0.1:${await serverPort()}`);
  }

  async run(rounds: number): Promise<CrashSummary> {
    const killing = this.killInRounds(rounds);
    const lanes = this.uploadInLanes(LANES);
    await Promise.all([killing, ...lanes]);
    await this.killAndRestart();
    await this.askAllAgain();
    // A client that repeats its end without asking for the offset, after a response it has not read, counts as one that
    // has read it (docs/decisions/0009).
    this.origin.check(({ plan }, { toldUnknown, unheard }) => toldUnknown + (plan.hasty > 0 ? unheard : 0));
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

  get disturbances(): number {
    return this.kills;
  }

  async url(): Promise<string> {
    return (await this.proxy).url;
  }

  notice(event: CampaignEvent, count?: number): void {
    this.trigger.notice(event, count);
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
    for (const client of this.origin.clients) {
      const step = this.origin.hasBefore(client) ? 'delivering' : client.step;
      if (step !== 'over') this.during[step] = (this.during[step] ?? 0) + 1;
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

  private async checkExpiry(): Promise<void> {
    const running = await this.proxy;
    this.kill(running, 'now');
    await this.bury(running);
    const next = this.spawn({ config: EXPIRY_CONFIG, nodeFlags: ['--import', A_DAY_LATER] });
    this.proxy = next.then((proxy) => proxy.listening());
    await this.proxy;
    const left = async (): Promise<string[]> =>
      (await Promise.all(['uploads', 'spool'].map((name) => readdir(join(this.data, name)))))
        .flat()
        // The mark says whose directory it is, whatever is in it.
        .filter((name) => name !== '.store');
    await until(async () => (await left()).length === 0, 'nothing to be left behind', 20_000).catch(
      async (error: unknown) => {
        throw new Error(`left behind: ${(await left()).join(', ')}`, { cause: error });
      },
    );
    if (this.faults.length > 0) throw new Error(`the proxy complained:\n${this.faults.join('\n')}`);
  }

  private summary(): CrashSummary {
    return { kills: this.kills, aimedAt: this.aimedAt, during: this.during, ...this.figures() };
  }
}

function isFault({ level }: Record<string, unknown>): boolean {
  return level === 'error' || level === 'fatal';
}
