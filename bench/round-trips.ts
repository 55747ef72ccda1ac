import { setTimeout as sleep } from 'node:timers/promises';
import { fieldValue, type HeaderLine } from '../src/model/headers.js';
import { requestOnce } from '../test/support/client.js';
import { randomBytes } from '../test/support/temporary.js';
import type { Plan } from './plan.js';
import { startOrigin } from './programs.js';
import { startBenchRedis, startRedisNodes } from './redis-nodes.js';
import { type Exchange, RedisTap } from './redis-tap.js';
import { keepResult, printTable } from './report.js';

/** Redis is that far away. */
const AWAY_MS = 5;
const PIECE = 10 * 1024;
/** Several rolling commits. */
const LONG = 80 * 1024 * 1024;
const VERSION: HeaderLine = ['Upload-Draft-Interop-Version', '10'];

/** What one request on an upload had to do with Redis. */
interface Cost {
  readonly name: string;
  readonly commands: readonly string[];
  /** Of the commands the client's answer waits for, those that wait for one another. */
  readonly turnsUntilAnswer: number;
  readonly turnsAfter: number;
  readonly answerMs?: number;
}

/** How often a proxy asks Redis, and how many of these questions its client waits for one after the other. */
export async function benchRoundTrips(plan: Plan): Promise<void> {
  const redis = await startBenchRedis();
  if (!redis) return;
  const sink = await startOrigin();
  const tap = await RedisTap.start(redis.url, AWAY_MS);
  const common = { origin: sink.url, nodes: 1, flags: plan.proxyFlags };
  const nodes = await startRedisNodes({ ...common, bytes: 'shared', redisUrl: tap.url });
  try {
    const client = new WatchedClient(nodes.proxies[0]!.url, tap);
    // The first time scripts travel whole.
    await allCosts(client);
    report(await allCosts(client), plan);
  } finally {
    await nodes.stop();
    await tap.stop();
    await sink.stop();
    await redis.stop();
  }
}

async function allCosts(client: WatchedClient): Promise<Cost[]> {
  const created = await client.post({ complete: false, size: 0 });
  const { target } = created;
  const appended = await client.patch(target, { offset: 0, complete: false });
  const head = await client.ask('HEAD', target);
  const last = await client.patch(target, { offset: PIECE, complete: true });
  const again = await client.ask('HEAD', target);
  const small = await client.post({ complete: true, size: PIECE });
  const long = await client.post({ complete: true, size: LONG });
  const unwanted = await client.post({ complete: false, size: 0 });
  const cancelled = await client.ask('DELETE', unwanted.target);
  return [
    costOf('create', created),
    costOf('append', appended),
    rollingCost(long, small),
    costOf('last append, delivery, answer', last),
    costOf('  of these for the delivery', { ...last, exchanges: sinceWhole(last) }),
    costOf('create, deliver, answer in one', small),
    costOf('HEAD', head),
    costOf('HEAD of what is answered', again),
    costOf('DELETE', cancelled),
  ];
}

/** One request, and the commands that were about its upload. */
interface Watched {
  readonly target: string;
  readonly exchanges: readonly Exchange[];
  readonly answeredAt: number;
  readonly answerMs?: number;
}

/** Sends one request at a time and sees what it leads to. */
class WatchedClient {
  constructor(
    private readonly url: string,
    private readonly tap: RedisTap,
  ) {}

  post({ complete, size }: { readonly complete: boolean; readonly size: number }): Promise<Watched> {
    return this.ask('POST', '/bench', [['Upload-Complete', complete ? '?1' : '?0']], size);
  }

  patch(
    target: string,
    { offset, complete }: { readonly offset: number; readonly complete: boolean },
  ): Promise<Watched> {
    const type: HeaderLine = ['Content-Type', 'application/partial-upload'];
    const step: HeaderLine[] = [['Upload-Complete', complete ? '?1' : '?0'], ['Upload-Offset', `${offset}`], type];
    return this.ask('PATCH', target, step, PIECE);
  }

  async ask(method: string, target: string, headers: HeaderLine[] = [], size?: number): Promise<Watched> {
    const from = this.tap.exchanges.length;
    const startedAt = performance.now();
    const body = size === undefined ? undefined : randomBytes(size);
    const response = await requestOnce(this.url, { method, target, headers: [VERSION, ...headers], body });
    const [answeredAt, answerMs] = [this.tap.now(), performance.now() - startedAt];
    if (response.status > 299) throw new Error(`${method} was answered with ${response.status}`);
    const locations = [response, ...response.interims].map((head) => fieldValue(head.headerLines, 'location'));
    const location = locations.find((value) => value !== undefined);
    const own = method === 'POST' && location !== undefined ? new URL(location).pathname : target;
    return { target: own, answeredAt, answerMs, exchanges: await this.about(own.split('/').at(-1)!, from) };
  }

  /** Everything about one upload, also what comes after the answer. */
  private async about(id: string, from: number): Promise<Exchange[]> {
    await sleep(20 * AWAY_MS);
    const own = this.tap.exchanges.slice(from).filter(({ words }) => words.some((word) => word.includes(id)));
    if (own.some(({ repliedAt }) => repliedAt === undefined)) throw new Error('Redis did not answer in time');
    return own;
  }
}

function costOf(name: string, { exchanges, answeredAt, answerMs }: Watched): Cost {
  const turns = turnsOf(exchanges);
  const turnsUntilAnswer = Math.max(0, ...turns.filter((_, at) => exchanges[at]!.repliedAt! < answeredAt));
  const turnsAfter = Math.max(0, ...turns) - turnsUntilAnswer;
  return { name, commands: exchanges.map((exchange) => exchange.name), turnsUntilAnswer, turnsAfter, answerMs };
}

/** For each command how many had to be answered before it, one after the other, itself included. */
function turnsOf(exchanges: readonly Exchange[]): number[] {
  const turns: number[] = [];
  for (const { sentAt } of exchanges)
    turns.push(1 + Math.max(0, ...turns.filter((_, at) => exchanges[at]!.repliedAt! < sentAt)));
  return turns;
}

/** What the upload that is larger needs more, for each of its commits but the last. */
function rollingCost(long: Watched, short: Watched): Cost {
  const commits = long.exchanges.filter(({ name }) => name === 'commit').slice(0, -1);
  const more = (long.exchanges.length - short.exchanges.length) / commits.length;
  const commands = Array.from({ length: more }, () => 'commit');
  return { name: `rolling commit (one of ${commits.length})`, commands, turnsUntilAnswer: 0, turnsAfter: more };
}

/** From the commit on that makes it whole. */
function sinceWhole({ exchanges }: Watched): readonly Exchange[] {
  const whole = exchanges.findLast(({ name }) => name === 'commit')!;
  return exchanges.filter(({ sentAt, name }) => sentAt > whole.sentAt && name !== 'release-lease');
}

function report(costs: readonly Cost[], plan: Plan): void {
  printTable({
    title: `What requests need from a Redis that is ${AWAY_MS} ms away`,
    columns: ['', 'commands', 'one after the other until the answer', 'after it', 'ms until the answer'],
    rows: costs.map(({ name, commands, turnsUntilAnswer, turnsAfter, answerMs }) => [
      name,
      `${commands.length}`,
      `${turnsUntilAnswer}`,
      `${turnsAfter}`,
      name.startsWith(' ') ? '' : (answerMs?.toFixed(0) ?? ''),
    ]),
    notes: [
      'Rolling commits are made while bytes go on to be taken: nobody waits for them.',
      ...costs.map(({ name, commands }) => `${name.trim()}: ${commands.join(' ')}`),
    ],
  });
  keepResult('round-trips', { awayMs: AWAY_MS, proxyFlags: plan.proxyFlags, costs });
}
