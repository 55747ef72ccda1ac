import { readdir } from 'node:fs/promises';
import { join } from 'node:path';
import type { CampaignClient } from './campaign.js';
import { Campaign, type CampaignFigures } from './campaign.js';
import { Chance, CampaignOrigin, type Creation } from './campaign-plan.js';
import { A_DAY_LATER } from './crash-campaign.js';
import { type Bytes, NodesLog, TestNodes } from './nodes.js';
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

/** After the last fault every client has its answer within this time. */
const RECOVERY_MS = 90_000;

export interface NodesCampaignOptions {
  readonly seed: number;
  readonly spool: Bytes;
  /** Some faults outlast leases and claims. */
  readonly hasLongOnes: boolean;
}

export interface NodesSummary extends CampaignFigures {
  readonly rounds: Readonly<Record<string, number>>;
  readonly seconds: number;
  readonly recoverySeconds: number;
  readonly takeovers: number;
  readonly log: Readonly<Record<string, number>>;
}

/**
 * Uploads without end to any of several nodes, while nodes, Redis and the network between them break again and again.
 * Rejects with the first promise that was broken.
 */
export class NodesCampaign extends Campaign {
  readonly hasParts = true;
  private readonly log = new NodesLog();
  private readonly injector: FaultInjector;
  private readonly startedAt = Date.now();
  private lanes: Promise<void>[] = [];
  private faulting: Promise<void> = Promise.resolve();
  private recoverySeconds = 0;
  private looks = 0;
  private closed = false;

  private constructor(
    chance: Chance,
    private readonly plan: FaultSchedule,
    origin: CampaignOrigin,
    private readonly nodes: TestNodes,
  ) {
    super(chance, origin);
    this.injector = new FaultInjector(nodes, this.log, () => this.cutClients());
  }

  static async open({ seed, spool, hasLongOnes }: NodesCampaignOptions): Promise<NodesCampaign> {
    const origin = await CampaignOrigin.start();
    try {
      const nodes = await TestNodes.start({
        isCuttable: true,
        origin: origin.url,
        bytes: spool,
        nodes: NODES,
        config: CONFIG,
      });
      const plan = new FaultSchedule(new Chance(seed), { nodes: NODES, hasLongOnes });
      const chance = new Chance(seed + 1, { largest: 6 * MEBIBYTE, tryMs: TRIES_MS });
      return new NodesCampaign(chance, plan, origin, nodes);
    } catch (error) {
      await origin.close();
      throw error;
    }
  }

  async run(rounds: number): Promise<NodesSummary> {
    this.lanes = this.uploadInLanes(LANES);
    const lanes = Promise.all(this.lanes);
    // A lane that ends before its time has found a fault.
    await Promise.race([lanes, (this.faulting = this.injectInRounds(rounds))]);
    await this.recover(lanes);
    await this.askAllAgain();
    await expireEverything(this.nodes, this.log);
    this.origin.check((client, creation) => this.repeatsOf(client, creation));
    this.log.check();
    return this.summary();
  }

  async close(): Promise<void> {
    this.over = true;
    this.closed = true;
    await this.faulting.catch(() => undefined);
    await this.injector.end().catch(() => undefined);
    await this.nodes.stop();
    await this.origin.close();
    await Promise.allSettled(this.lanes);
  }

  get disturbances(): number {
    if (Date.now() - this.injector.lastAt < AFTERMATH_MS) this.looks++;
    return this.looks;
  }

  /** Any node: alive, paused or dead. */
  async url(): Promise<string> {
    await new Promise((resolve) => setTimeout(resolve, this.chance.below(20)));
    if (this.closed) throw new Error('the campaign is over');
    return this.nodes.urlOf(this.chance.below(NODES));
  }

  notice(): void {
    // Faults come at their own times.
  }

  /** With what the nodes have said of the upload. */
  protected override explain({ target = '' }: CampaignClient, error: unknown): never {
    const running = Array.from({ length: this.nodes.names.length }, (_, at) => this.nodes.node(at));
    const lines = this.log.about(target.split('/').at(-1)!, running);
    throw new Error([(error as Error).message, ...lines.slice(-40)].join('\n  '), { cause: error });
  }

  private async injectInRounds(rounds: number): Promise<void> {
    for (let round = 0; round < rounds && !this.over; round++) await this.injectAndWait(this.plan.next());
    await this.injector.end();
  }

  private async injectAndWait(fault: NodeFault): Promise<void> {
    await this.injector.inject(fault);
    await new Promise((resolve) => setTimeout(resolve, fault.thenMs));
  }

  private async recover(lanes: Promise<unknown>): Promise<void> {
    const from = Date.now();
    this.over = true;
    try {
      await within(lanes, 'every client to have its answer', RECOVERY_MS);
    } catch (error) {
      const stuck = this.origin.clients.filter(({ step }) => step !== 'over');
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
  private repeatsOf({ creations, target }: CampaignClient, creation: Creation): number {
    if (creation !== creations.at(-1) || target === undefined) return 0;
    return Math.min(creation.toldUnknown + creation.unheard, this.log.givenUp(target.split('/').at(-1)!));
  }

  private cutClients(): void {
    for (const client of this.origin.clients.slice(-2 * LANES)) if (this.chance.happens(0.5)) client.cutOff();
  }

  private summary(): NodesSummary {
    return {
      rounds: this.injector.counts,
      seconds: Math.round((Date.now() - this.startedAt) / 1000),
      recoverySeconds: this.recoverySeconds,
      ...this.figures(),
      takeovers: this.log.takeovers,
      log: this.log.counts,
    };
  }
}

const NODE_FAULTS = [
  'stop-node',
  'kill-node',
  'kill-redis',
  'stop-redis',
  'cut-network',
  'hang-network',
  'cut-clients',
] as const;
export type NodeFaultKind = (typeof NODE_FAULTS)[number];

/** One thing that goes wrong, and is mended. */
export interface NodeFault {
  readonly kind: NodeFaultKind;
  /** Which node it hits, or whose network; of Redis and the clients there is no choice. */
  readonly node: number;
  readonly forMs: number;
  /** Others may follow before it is mended. */
  readonly isLong: boolean;
  /** Quiet before the next one. */
  readonly thenMs: number;
}

/** How long each may last when it is short: some are over before anybody notices, some make commands fail. */
const LONGEST_MS: Readonly<Record<NodeFaultKind, number>> = {
  'stop-node': 5000,
  'kill-node': 1000,
  'kill-redis': 2000,
  'stop-redis': 3000,
  'cut-network': 3000,
  'hang-network': 4000,
  'cut-clients': 0,
};

/** Leases and claims last 15 s: nobody may believe in one for longer. */
const LONG_MS = { least: 16_000, most: 30_000 };

/** Of node stops and broken networks. */
const LONG_SHARE = 0.2;

export interface FaultScheduleOptions {
  readonly nodes: number;
  /** Some outlast leases and claims. */
  readonly hasLongOnes: boolean;
}

/** What goes wrong next, the same for the same seed. Every kind has its turn before one comes again. */
export class FaultSchedule {
  private bag: NodeFaultKind[] = [];

  constructor(
    private readonly chance: Chance,
    private readonly options: FaultScheduleOptions,
  ) {}

  next(): NodeFault {
    const { chance, options } = this;
    const kind = this.draw();
    const canLast = kind === 'stop-node' || kind === 'cut-network' || kind === 'hang-network';
    const isLong = canLast && options.hasLongOnes && chance.happens(LONG_SHARE);
    return {
      kind,
      node: chance.below(options.nodes),
      isLong,
      forMs: isLong
        ? LONG_MS.least + chance.below(LONG_MS.most - LONG_MS.least)
        : chance.below(chance.of([LONGEST_MS[kind] / 5, LONGEST_MS[kind]])),
      thenMs: chance.of([0, chance.below(300), chance.below(1500)]),
    };
  }

  private draw(): NodeFaultKind {
    if (this.bag.length === 0) this.bag = [...NODE_FAULTS];
    return this.bag.splice(this.chance.below(this.bag.length), 1)[0]!;
  }
}

/** Breaks what a fault names, and mends it after its time. */
export class FaultInjector {
  readonly counts: Partial<Record<NodeFaultKind | 'long', number>> = {};
  private mendedAt = Date.now();
  private underWay = 0;
  private readonly hit = new Set<number>();
  private long: Promise<void> = Promise.resolve();

  constructor(
    private readonly nodes: TestNodes,
    private readonly log: NodesLog,
    private readonly cutClients: () => void,
  ) {}

  /** When something was last broken: now, while anything is. */
  get lastAt(): number {
    return this.underWay > 0 ? Date.now() : this.mendedAt;
  }

  /** Fulfilled when it is mended; a long one goes on alone, and is waited for by the next long one and by `end`. */
  async inject(fault: NodeFault): Promise<void> {
    this.count(fault.kind);
    if (!fault.isLong) return this.play(fault);
    await this.long;
    this.count('long');
    this.long = this.play(fault);
    // Its failure is that of whoever waits for it.
    this.long.catch(() => undefined);
  }

  /** Waits until nothing is broken any more. */
  end(): Promise<void> {
    return this.long;
  }

  private async play(fault: NodeFault): Promise<void> {
    const node = this.spared(fault.node);
    const aimsAtNode = fault.kind.endsWith('node') || fault.kind.endsWith('network');
    if (aimsAtNode) this.hit.add(node);
    this.underWay += 1;
    try {
      const mend = await this.breakIt(fault.kind, node);
      await new Promise((resolve) => setTimeout(resolve, fault.forMs));
      await mend();
    } finally {
      this.underWay -= 1;
      this.mendedAt = Date.now();
      if (aimsAtNode) this.hit.delete(node);
    }
  }

  /** That node, or the next that nothing is wrong with. */
  private spared(node: number): number {
    const nodes = Array.from({ length: this.nodes.names.length }, (_, at) => (node + at) % this.nodes.names.length);
    return nodes.find((at) => !this.hit.has(at)) ?? node;
  }

  /** Gives what mends it. */
  private async breakIt(kind: NodeFaultKind, at: number): Promise<() => unknown> {
    const { redis } = this.nodes;
    const network = this.nodes.network(at);
    switch (kind) {
      case 'stop-node': {
        const { pid } = this.nodes.node(at);
        process.kill(pid, 'SIGSTOP');
        return () => process.kill(pid, 'SIGCONT');
      }
      case 'kill-node':
        await this.nodes.node(at).kill();
        this.log.read(this.nodes.node(at));
        return () => this.nodes.restart(at);
      case 'kill-redis':
        await redis.kill();
        return () => redis.restart();
      case 'stop-redis':
        redis.pause();
        return () => redis.resume();
      case 'cut-network':
        await network.cut();
        return () => network.restore();
      case 'hang-network':
        network.hang();
        return () => network.restore();
      case 'cut-clients':
        this.cutClients();
        return () => undefined;
    }
  }

  private count(what: NodeFaultKind | 'long'): void {
    this.counts[what] = (this.counts[what] ?? 0) + 1;
  }
}

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
async function expireEverything(nodes: TestNodes, log: NodesLog): Promise<void> {
  const all = Array.from({ length: nodes.names.length }, (_, at) => at);
  await Promise.all(all.map((at) => nodes.node(at).kill()));
  for (const at of all) log.read(nodes.node(at));
  await nodes.redis.cli('eval', A_DAY_EARLIER, '0');
  const config = (at: number): string => nodes.configOf(at, CONFIG_OF_THE_DAY_AFTER);
  const nodeFlags = ['--import', A_DAY_LATER];
  await Promise.all(all.map((at) => nodes.restart(at, { config: config(at), nodeFlags })));
  await untilNothingIsLeft(nodes);
}

/** As long as it gets less. */
async function untilNothingIsLeft(nodes: TestNodes): Promise<void> {
  let least = Infinity;
  let lessAt = Date.now();
  for (;;) {
    const left = await leftovers(nodes);
    if (left.length === 0) return;
    if (left.length < least) lessAt = Date.now();
    least = Math.min(least, left.length);
    if (Date.now() - lessAt > PATIENCE_MS)
      throw new Error(`${left.length} things were left behind:\n${left.slice(0, 20).join('\n')}`);
    await new Promise((resolve) => setTimeout(resolve, LOOK_MS));
  }
}

/** Files of uploads, not those of the spool itself, keys that grow with the number of uploads, and figures that still count some. */
async function leftovers({ dataDirectories, redis }: TestNodes): Promise<string[]> {
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
