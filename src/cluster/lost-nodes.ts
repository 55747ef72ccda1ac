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
  /** The store as the given node would see it. */
  readonly storeOf: (node: string) => UploadStore;
  /** True for one process in the cluster at a time. */
  readonly mayCheckLostNodes: () => Promise<boolean>;
  /** A node that was silent for this long is considered permanently lost. */
  readonly ownerTimeoutMs: number;
  /** Wall-clock time in milliseconds. */
  readonly clock: () => number;
  /** Monotonic clock in milliseconds; that of this process by default. */
  readonly monotonic?: () => number;
  readonly metrics: Metrics;
  readonly log: Log;
}

const MAX_INTERVAL_MS = 30_000;
const MIN_INTERVAL_MS = 250;
/**
 * The most checks in a row that may be missed. After more, this process was itself suspended or is too busy to judge
 * other nodes.
 */
const MAX_MISSED_INTERVALS = 3;

/**
 * Ends the uploads of nodes that were silent for too long, so that clients do not wait forever for lost bytes. Time in
 * which the store is unavailable does not count, because every node is silent then.
 */
export class LostNodes {
  private readonly everyMs: number;
  private timer: NodeJS.Timeout | undefined;
  private running: Promise<void> | undefined;
  /** Times of the first and the last check in a series without a gap. */
  private series: { readonly since: number; readonly last: number } | undefined;
  /**
   * Nodes that were silent at the last check. One check is not enough: a Redis restored from an old snapshot, or with
   * another clock, does not know the latest heartbeats until the nodes repeat them.
   */
  private silentNames: ReadonlySet<string> = new Set();

  constructor(private readonly options: LostNodesOptions) {
    this.everyMs = Math.min(MAX_INTERVAL_MS, Math.max(MIN_INTERVAL_MS, options.ownerTimeoutMs / 4));
  }

  start(): void {
    this.timer = setInterval(() => this.begin(), this.everyMs).unref();
  }

  async stop(): Promise<void> {
    clearInterval(this.timer);
    await this.running;
  }

  /** Checks once which nodes are silent, and ends the uploads of lost ones. Rejects with a `Fault`. */
  async check(): Promise<void> {
    const { self, ownerTimeoutMs, mayCheckLostNodes } = this.options;
    const silentBefore = this.silentNames;
    this.silentNames = new Set();
    const all = await this.readNodes();
    const silent = all.filter((node) => node.name !== self && this.isSilentTooLong(node));
    this.silentNames = new Set(silent.map(({ name }) => name));
    const lost = silent.filter(({ name }) => silentBefore.has(name));
    if (lost.length === 0 || this.watchedMs < ownerTimeoutMs || !(await mayCheckLostNodes())) return;
    for (const node of lost) await this.forget(node);
  }

  private get watchedMs(): number {
    return this.series ? this.series.last - this.series.since : 0;
  }

  private async readNodes(): Promise<readonly NodeState[]> {
    const { nodes, monotonic = () => performance.now() } = this.options;
    const { series } = this;
    this.series = undefined;
    const all = await nodes.all();
    const now = monotonic();
    const continues = series !== undefined && now - series.last <= MAX_MISSED_INTERVALS * this.everyMs;
    this.series = { since: continues ? series.since : now, last: now };
    return all;
  }

  private isSilentTooLong({ silentMs }: NodeState): boolean {
    return silentMs >= this.options.ownerTimeoutMs;
  }

  private begin(): void {
    this.running ??= this.check()
      .catch((error: unknown) => {
        // The outage of the store is logged elsewhere.
        if (!isStoreUnavailable(error)) this.options.log.error({ err: error }, 'the check for lost nodes failed');
      })
      .finally(() => (this.running = undefined));
  }

  private async forget({ name, silentMs }: NodeState): Promise<void> {
    const { self: successor, storeOf, nodes, leases, metrics, log, clock } = this.options;
    const store = storeOf(name);
    const isStillLost = async (): Promise<boolean> => {
      const node = await nodes.find(name);
      return node !== undefined && this.isSilentTooLong(node);
    };
    try {
      const uploads = await endLostUploads({ node: name, isStillLost, store, leases, successor, metrics, log, clock });
      if (!(await isStillLost())) return;
      await nodes.forget(name);
      log.error(
        { node: name, silentSeconds: Math.round(silentMs / 1000), uploads },
        'a node is lost, and its uploads have ended',
      );
    } finally {
      await store.close();
    }
  }
}

export interface LostNodeDeps extends EndObserver {
  /** The lost node. */
  readonly node: string;
  /** Called before each upload, because the node may return at any moment with all its bytes. */
  readonly isStillLost: () => Promise<boolean>;
  /** The store as the lost node would see it: it lists that node's uploads. */
  readonly store: UploadStore;
  readonly leases: Leases;
  /** Takes over the uploads that need no bytes of the lost node. */
  readonly successor: string;
}

const NODE_LOST = 'the node that had its bytes is lost';

/** Later than the expiry of every upload, so that `expired` lists all of them. */
const AFTER_ALL_EXPIRY = Number.MAX_SAFE_INTEGER;

/**
 * Ends the uploads of a lost node, and moves those whose answer is in the record to the successor. Returns how many have
 * ended. Rejects with a `Fault` if an upload changed meanwhile or could not be ended; the caller then tries again.
 */
export async function endLostUploads(deps: LostNodeDeps): Promise<number> {
  const seenIds = new Set<string>();
  let ended = 0;
  let failure: Fault | undefined;
  for (let ids = await nextUploads(deps, seenIds); ids.length > 0; ids = await nextUploads(deps, seenIds))
    for (const id of ids) {
      if (!(await deps.isStillLost())) return ended;
      try {
        if (await endLostUpload(id, deps)) ended += 1;
      } catch (fault) {
        if (!(fault instanceof Fault) || isStoreUnavailable(fault)) throw fault;
        failure ??= fault;
      }
    }
  if (failure) throw failure;
  return ended;
}

async function nextUploads({ store }: LostNodeDeps, seenIds: Set<string>): Promise<string[]> {
  const ids = (await store.expired(AFTER_ALL_EXPIRY)).filter((id) => !seenIds.has(id));
  for (const id of ids) seenIds.add(id);
  return ids;
}

async function endLostUpload(id: string, deps: LostNodeDeps): Promise<boolean> {
  const { node, store, leases, successor } = deps;
  const lease = await leases.take(id, 'to-end');
  try {
    const upload = await store.get(id);
    if (upload?.node !== node) return false;
    if (needsNoBytes(upload)) {
      assertDone(await store.move(id, lease.token, successor));
      return false;
    }
    const { phase } = upload;
    if (phase === 'receiving') assertDone(await store.invalidate(id, lease.token, 'lost'));
    else if (phase !== 'answered') await store.markLost(id);
    if (phase === 'answered') reportLostAnswer(upload, NODE_LOST, deps);
    else if (phase !== 'cancelled' && phase !== 'invalid') reportLoss(upload, NODE_LOST, deps);
    await store.remove(id, upload.clientKey);
    return true;
  } finally {
    await lease.release();
  }
}

/**
 * Throws if the upload has changed: this process may have been suspended while it held the lease, and another node,
 * perhaps the returned one, may have continued the upload.
 */
function assertDone(result: Upload | 'stale' | 'gone'): void {
  if (typeof result === 'string')
    throw new Fault('STORE_UNAVAILABLE', 'an upload of a lost node has changed meanwhile', true);
}

function needsNoBytes({ phase, answer }: Upload): boolean {
  return phase === 'answered' && (answer?.bodySize === 0 || answer?.body.in === 'record');
}
