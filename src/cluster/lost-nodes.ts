import { type EndObserver, reportLoss, reportLostAnswer } from '../delivery/report.js';
import { Fault } from '../model/fault.js';
import type { Upload } from '../model/upload.js';
import type { Log } from '../observe/log.js';
import type { Metrics } from '../observe/metrics.js';
import type { Leases } from '../store/leases.js';
import type { Nodes, NodeState } from '../store/nodes.js';
import { isStoreUnavailable, type UploadStore } from '../store/upload-store.js';

export interface LostNodesOptions {
  /** The name of this node. */
  readonly self: string;
  readonly nodes: Pick<Nodes, 'all' | 'find' | 'forget'>;
  readonly leases: Leases;
  /** What is known of uploads, as that node would see it. */
  readonly storeOf: (node: string) => UploadStore;
  /** Given to one process of all. */
  readonly mayLook: () => Promise<boolean>;
  /** A node that is silent for this long will not come back. */
  readonly ownerTimeoutMs: number;
  /** The time of the wall. */
  readonly clock: () => number;
  /** Milliseconds by a clock that nobody sets; those of this process when it is missing. */
  readonly monotonic?: () => number;
  readonly metrics: Metrics;
  readonly log: Log;
}

const MOST_MS = 30_000;
const LEAST_MS = 250;
/** Whoever missed more looks than this was stopped itself, or is too busy to judge others. */
const LONGEST_GAP = 3;

/**
 * Ends the uploads of nodes that were silent for too long: state that is lost is never guessed, and nobody waits for ever.
 * Only what it could have heard counts: while the store is away everybody is silent.
 */
export class LostNodes {
  private readonly everyMs: number;
  private timer: NodeJS.Timeout | undefined;
  private looking: Promise<void> | undefined;
  /** The first and the last of the looks that have followed each other without a gap. */
  private watch: { readonly since: number; readonly last: number } | undefined;
  /**
   * At the last look. Once is not enough: a Redis that has come back with an old snapshot, or with another clock, knows of
   * nobody's last words before they say something again.
   */
  private silent: ReadonlySet<string> = new Set();

  constructor(private readonly options: LostNodesOptions) {
    this.everyMs = Math.min(MOST_MS, Math.max(LEAST_MS, options.ownerTimeoutMs / 4));
  }

  start(): void {
    this.timer = setInterval(() => this.begin(), this.everyMs).unref();
  }

  async stop(): Promise<void> {
    clearInterval(this.timer);
    await this.looking;
  }

  /** One look at who is there. Fails with a `Fault`. */
  async look(): Promise<void> {
    const { self, ownerTimeoutMs, mayLook } = this.options;
    const before = this.silent;
    this.silent = new Set();
    const all = await this.hear();
    const silent = all.filter((node) => node.name !== self && this.isGone(node));
    this.silent = new Set(silent.map(({ name }) => name));
    const gone = silent.filter(({ name }) => before.has(name));
    if (gone.length === 0 || this.watchedMs < ownerTimeoutMs || !(await mayLook())) return;
    for (const node of gone) await this.forget(node);
  }

  private get watchedMs(): number {
    return this.watch ? this.watch.last - this.watch.since : 0;
  }

  private async hear(): Promise<readonly NodeState[]> {
    const { nodes, monotonic = () => performance.now() } = this.options;
    const { watch } = this;
    this.watch = undefined;
    const all = await nodes.all();
    const now = monotonic();
    const goesOn = watch !== undefined && now - watch.last <= LONGEST_GAP * this.everyMs;
    this.watch = { since: goesOn ? watch.since : now, last: now };
    return all;
  }

  private isGone({ silentMs }: NodeState): boolean {
    return silentMs >= this.options.ownerTimeoutMs;
  }

  private begin(): void {
    this.looking ??= this.look()
      .catch((error: unknown) => {
        // That the store is away is told elsewhere.
        if (!isStoreUnavailable(error))
          this.options.log.error({ err: error }, 'nodes that are gone could not be looked for');
      })
      .finally(() => (this.looking = undefined));
  }

  private async forget({ name, silentMs }: NodeState): Promise<void> {
    const { self: successor, storeOf, nodes, leases, metrics, log, clock } = this.options;
    const store = storeOf(name);
    const isStillLost = async (): Promise<boolean> => {
      const node = await nodes.find(name);
      return node !== undefined && this.isGone(node);
    };
    try {
      const uploads = await forgetNode({ node: name, isStillLost, store, leases, successor, metrics, log, clock });
      if (!(await isStillLost())) return;
      await nodes.forget(name);
      log.error({ node: name, silentSeconds: Math.round(silentMs / 1000), uploads }, 'a node is gone for good');
    } finally {
      await store.close();
    }
  }
}

export interface ForgetNodeDeps extends EndObserver {
  /** The one that is gone. */
  readonly node: string;
  /** Asked before each upload: it may come back at any moment, with all its bytes. */
  readonly isStillLost: () => Promise<boolean>;
  /** As the node that is gone would see it: it names that node's uploads. */
  readonly store: UploadStore;
  readonly leases: Leases;
  /** Takes what needs no bytes of the node that is gone. */
  readonly successor: string;
}

const GONE = 'its node is gone with its bytes';

/** Later than every upload's end. */
const WHENEVER = Number.MAX_SAFE_INTEGER;

/**
 * Ends the uploads of a node that will not come back with its bytes: from then on they are unknown. An answer that is kept
 * in its record needs no bytes, and is still given. Gives how many are gone. May be broken off, and done again; fails with a
 * `Fault` where one has changed meanwhile, and, after all others, where one cannot be ended.
 */
export async function forgetNode(deps: ForgetNodeDeps): Promise<number> {
  const seen = new Set<string>();
  let gone = 0;
  let failure: Fault | undefined;
  for (let ids = await unseen(deps, seen); ids.length > 0; ids = await unseen(deps, seen))
    for (const id of ids) {
      if (!(await deps.isStillLost())) return gone;
      try {
        if (await forget(id, deps)) gone += 1;
      } catch (fault) {
        if (!(fault instanceof Fault) || isStoreUnavailable(fault)) throw fault;
        failure ??= fault;
      }
    }
  if (failure) throw failure;
  return gone;
}

async function unseen({ store }: ForgetNodeDeps, seen: Set<string>): Promise<string[]> {
  const ids = (await store.expired(WHENEVER)).filter((id) => !seen.has(id));
  for (const id of ids) seen.add(id);
  return ids;
}

async function forget(id: string, deps: ForgetNodeDeps): Promise<boolean> {
  const { node, store, leases, successor } = deps;
  const lease = await leases.take(id, 'to-end');
  try {
    const upload = await store.get(id);
    if (upload?.node !== node) return false;
    if (isKeptInRecord(upload)) {
      assertDone(await store.move(id, lease.token, successor));
      return false;
    }
    const { phase } = upload;
    if (phase === 'receiving') assertDone(await store.invalidate(id, lease.token, 'lost'));
    else if (phase !== 'answered') await store.lose(id);
    if (phase === 'answered') reportLostAnswer(upload, GONE, deps);
    else if (phase !== 'cancelled' && phase !== 'invalid') reportLoss(upload, GONE, deps);
    await store.remove(id, upload.clientKey);
    return true;
  } finally {
    await lease.release();
  }
}

/** Whoever stood still under its lease must not end what others go on with, perhaps at that node, which is back. */
function assertDone(result: Upload | 'stale' | 'gone'): void {
  if (typeof result === 'string')
    throw new Fault('STORE_UNAVAILABLE', 'an upload of a node that is gone has changed meanwhile', true);
}

function isKeptInRecord({ phase, answer }: Upload): boolean {
  return phase === 'answered' && (answer?.bodySize === 0 || answer?.body.in === 'record');
}
