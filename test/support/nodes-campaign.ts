import { CrashClient } from './crash-client.js';
import { CrashOrigin } from './crash-origin.js';
import { Chance } from './crash-plan.js';
import type { CrashWorld, Creation } from './crash-world.js';
import { expireEverything } from './nodes-aftermath.js';
import { NodesLog } from './nodes-log.js';
import { BlowPlan, type Blow, type SpoolKind } from './nodes-plan.js';
import { NodesStage } from './nodes-stage.js';
import { Strikes } from './nodes-strikes.js';
import { within } from './temporary.js';

const CONFIG = `
uploads: { rfc104: true }
delivery: { keep_answer_size: 16KiB, retry: { attempts: 50, first_delay: 20ms, longest_delay: 100ms } }
routes:
  - match: { path: /eager/** }
    delivery: { mode: eager }
  - match: { path: /files/** }
`;

const NODES = 3;

/** How many uploads are under way at a time. */
const LANES = 20;

const MEBIBYTE = 1024 * 1024;

/** How long clients hold out at one node before they try another. */
const TRIES_MS = [3000, 10_000, 25_000];

/** Leases and claims of whoever was hit last for 15 s; what it interrupted may fail until then. */
const AFTERMATH_MS = 20_000;

/** After the last blow every client has its answer within this time. */
const RECOVERY_MS = 90_000;

export interface NodesCampaignOptions {
  readonly seed: number;
  readonly spool: SpoolKind;
  /** Some blows outlast leases and claims. */
  readonly hasLongOnes: boolean;
}

export interface NodesSummary {
  readonly rounds: Readonly<Record<string, number>>;
  readonly seconds: number;
  readonly recoverySeconds: number;
  readonly uploads: number;
  readonly cancelled: number;
  readonly mebibytes: number;
  readonly requestsAtOrigin: number;
  readonly takeovers: number;
  readonly turnedAway: number;
  readonly toldUnknown: number;
  readonly unheard: number;
  readonly log: Readonly<Record<string, number>>;
}

/**
 * Uploads without end to any of several nodes, while nodes, Redis and the network between them break again and again.
 * Rejects with the first promise that was broken.
 */
export class NodesCampaign implements CrashWorld {
  readonly hasParts = true;
  private readonly log = new NodesLog();
  private readonly strikes: Strikes;
  private readonly startedAt = Date.now();
  private lanes: Promise<void>[] = [];
  private striking: Promise<void> = Promise.resolve();
  private recoverySeconds = 0;
  private looks = 0;
  private over = false;
  private closed = false;

  private constructor(
    readonly chance: Chance,
    private readonly plan: BlowPlan,
    private readonly origin: CrashOrigin,
    private readonly stage: NodesStage,
  ) {
    this.strikes = new Strikes(stage, this.log, () => this.cutClients());
  }

  static async open({ seed, spool, hasLongOnes }: NodesCampaignOptions): Promise<NodesCampaign> {
    const origin = await CrashOrigin.start();
    try {
      const stage = await NodesStage.open({ origin: origin.url, spool, nodes: NODES, config: CONFIG });
      const plan = new BlowPlan(new Chance(seed), { nodes: NODES, hasLongOnes });
      const chance = new Chance(seed + 1, { largest: 6 * MEBIBYTE, tryMs: TRIES_MS });
      return new NodesCampaign(chance, plan, origin, stage);
    } catch (error) {
      await origin.close();
      throw error;
    }
  }

  async run(rounds: number): Promise<NodesSummary> {
    this.lanes = Array.from({ length: LANES }, () => this.uploadUntilOver());
    const lanes = Promise.all(this.lanes);
    // A lane that ends before its time has found a fault.
    await Promise.race([lanes, (this.striking = this.strikeInRounds(rounds))]);
    await this.recover(lanes);
    for (const client of this.origin.clients)
      await client.askAgain().catch((error: unknown) => this.explain(client, error));
    await expireEverything(this.stage, this.log);
    this.origin.check((client, creation) => this.repeatsOf(client, creation));
    this.log.check();
    return this.summary();
  }

  async close(): Promise<void> {
    this.over = true;
    this.closed = true;
    await this.striking.catch(() => undefined);
    await this.strikes.end().catch(() => undefined);
    await this.stage.close();
    await this.origin.close();
    await Promise.allSettled(this.lanes);
  }

  get disturbances(): number {
    if (Date.now() - this.strikes.lastAt < AFTERMATH_MS) this.looks++;
    return this.looks;
  }

  /** Any node: alive, paused or dead. */
  async url(): Promise<string> {
    await new Promise((resolve) => setTimeout(resolve, this.chance.below(20)));
    if (this.closed) throw new Error('the campaign is over');
    return this.stage.url(this.chance.below(NODES));
  }

  notice(): void {
    // Blows come when they come.
  }

  private async uploadUntilOver(): Promise<void> {
    while (!this.over) {
      const client = new CrashClient(this.chance.upload(), this);
      this.origin.expect(client);
      await client.run().catch((error: unknown) => this.explain(client, error));
      const asks = client.answer !== undefined && this.chance.happens(0.3);
      if (asks) await client.askAgain().catch((error: unknown) => this.explain(client, error));
    }
  }

  /** With what the nodes have said of the upload. */
  private explain({ target = '' }: CrashClient, error: unknown): never {
    const running = Array.from({ length: this.stage.size }, (_, at) => this.stage.node(at));
    const lines = this.log.about(target.split('/').at(-1)!, running);
    throw new Error([(error as Error).message, ...lines.slice(-40)].join('\n  '), { cause: error });
  }

  private async strikeInRounds(rounds: number): Promise<void> {
    for (let round = 0; round < rounds && !this.over; round++) await this.strike(this.plan.next());
    await this.strikes.end();
  }

  private async strike(blow: Blow): Promise<void> {
    await this.strikes.strike(blow);
    await new Promise((resolve) => setTimeout(resolve, blow.thenMs));
  }

  private async recover(lanes: Promise<unknown>): Promise<void> {
    const from = Date.now();
    this.over = true;
    try {
      await within(lanes, 'every client to have its answer', RECOVERY_MS);
    } catch (error) {
      const stuck = this.origin.clients.filter(({ stage }) => stage !== 'over');
      throw new Error(stuck.map((client) => client.broken('this client had none').message).join('\n'), {
        cause: error,
      });
    }
    this.recoverySeconds = (Date.now() - from) / 1000;
  }

  /**
   * A client that heard nothing may have been told that the next completion sends the upload once more; one that never
   * knew where its upload is cannot have asked for it.
   */
  private repeatsOf({ creations, target }: CrashClient, creation: Creation): number {
    if (creation !== creations.at(-1) || target === undefined) return 0;
    return Math.min(creation.toldUnknown + creation.unheard, this.log.givenUp(target.split('/').at(-1)!));
  }

  private cutClients(): void {
    for (const client of this.origin.clients.slice(-2 * LANES)) if (this.chance.happens(0.5)) client.cutOff();
  }

  private summary(): NodesSummary {
    const { clients, requests } = this.origin;
    const creations = clients.flatMap((client) => client.creations);
    return {
      rounds: this.strikes.counts,
      seconds: Math.round((Date.now() - this.startedAt) / 1000),
      recoverySeconds: this.recoverySeconds,
      uploads: clients.length,
      cancelled: clients.filter(({ isCancelled }) => isCancelled).length,
      mebibytes: Math.round(clients.reduce((sum, { plan }) => sum + plan.bytes.length, 0) / MEBIBYTE),
      requestsAtOrigin: requests,
      takeovers: this.log.takeovers,
      turnedAway: clients.reduce((sum, { turnedAway }) => sum + turnedAway, 0),
      toldUnknown: creations.reduce((sum, { toldUnknown }) => sum + toldUnknown, 0),
      unheard: creations.reduce((sum, { unheard }) => sum + unheard, 0),
      log: this.log.counts,
    };
  }
}
