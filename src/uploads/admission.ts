import { setTimeout as sleep } from 'node:timers/promises';
import { Fault } from '../model/fault.js';
import type { Refusal } from '../model/messages.js';
import type { Routes } from '../model/route.js';
import { PLAIN_DIALECT, type Upload } from '../model/upload.js';
import type { Log } from '../observe/log.js';
import type { Metrics } from '../observe/metrics.js';
import type { DiskSpace } from '../spool/disk-space.js';
import { type Capacity, type Excess, isNoRoom, type NoRoom, type Room, roomOf } from '../store/usage.js';
import { CreationRates, type RateLimit } from './creation-rates.js';

/** The limits of the uploads that are not answered yet, besides those of each route. Missing: no limit. */
interface AdmissionLimits {
  readonly all?: Room;
  readonly client?: Room;
  readonly rate?: RateLimit;
}

export interface AdmissionOptions {
  readonly limits: AdmissionLimits;
  readonly routes: Pick<Routes, 'byName'>;
  /** The disk of the spool; missing: its space is not looked at. */
  readonly space?: Pick<DiskSpace, 'free' | 'refresh'>;
  readonly metrics: Pick<Metrics, 'uploadRefused'>;
  readonly log: Log;
  /** Monotonic clock in milliseconds. */
  readonly monotonic: () => number;
  /** A refused client hears of it this much later. */
  readonly refusalDelayMs: number;
}

/** The reason why an upload is not admitted. */
export type RefusedBy = Excess | 'rate' | 'files';

/** A new upload, as far as admission looks at it. */
type Candidate = Pick<Upload, 'route' | 'dialect' | 'client' | 'length'>;

/** At most so many refusals are delayed at the same time, because each of them holds a request in memory. */
const MAX_DELAYED = 500;

/** One log line for each reason in this time. */
const LOG_INTERVAL_MS = 10_000;

/** As many files as an upload may need: its record and a draft of it, its directory, chunks, answer and acknowledged offset. */
const FILES_PER_UPLOAD = 8;

/** Seconds after which trying again is worthwhile: other uploads end at any time, and nobody knows when. */
const RETRY_SECONDS = { client: 30, server: 30 };

/**
 * Decides which uploads are let in, so that those which are can finish. What is in use follows from the records of all
 * uploads, and the store compares it with the capacity in the step that creates the upload.
 * Reasons: docs/decisions/0037.
 */
export class Admission {
  private readonly rates: CreationRates | undefined;
  private readonly reports = new Map<RefusedBy, { at: number; count: number }>();
  private delayedCount = 0;

  constructor(private readonly options: AdmissionOptions) {
    const { rate } = options.limits;
    this.rates = rate && new CreationRates(rate);
  }

  /** Has `create` make the upload within a capacity, unless the client creates uploads too fast. */
  async admit<T extends object>(
    upload: Candidate,
    create: (capacity: Capacity) => Promise<T | NoRoom>,
  ): Promise<T | Refusal> {
    const { limits, space } = this.options;
    const tooLarge = refuseImpossible(upload, this.capacityFor(upload.route));
    if (tooLarge) return tooLarge;
    const waitSeconds = isCounted(upload) ? this.rates?.take(upload.client, this.options.monotonic()) : undefined;
    if (waitSeconds !== undefined) return this.refuse('rate', upload, waitSeconds);
    await space?.refresh();
    const capacity = this.capacityFor(upload.route);
    const ofClient = isCounted(upload) && limits.client ? { client: limits.client } : {};
    let created = await create({ ...capacity, ...ofClient });
    if (isNoRoom(created) && created.exceeds === 'unwritten-bytes' && (await this.hasMoreSpace()))
      created = await create({ ...this.capacityFor(upload.route), ...ofClient });
    if (!isNoRoom(created)) return created;
    const isForFiles = created.exceeds === 'all-uploads' && capacity.all?.uploads !== limits.all?.uploads;
    return this.refuse(isForFiles ? 'files' : created.exceeds, upload);
  }

  /** Runs a step of an upload that may take more room than before. It rejects with `STORAGE_FULL` without that room. */
  async takeRoom<T>(route: string, step: (capacity: Capacity) => Promise<T>): Promise<T> {
    try {
      return await step(this.capacityFor(route));
    } catch (fault) {
      const isFull = fault instanceof Fault && fault.code === 'STORAGE_FULL';
      if (!isFull || !(await this.hasMoreSpace())) throw fault;
      return step(this.capacityFor(route));
    }
  }

  /** Looks at the disk again before a step is refused, because what is known of it may be a second old. */
  private async hasMoreSpace(): Promise<boolean> {
    const { space } = this.options;
    const before = space?.free?.bytes ?? Infinity;
    await space?.refresh({ always: true });
    return (space?.free?.bytes ?? Infinity) > before;
  }

  /** The capacity for the uploads of a route, by what is known of the disk now. */
  capacityFor(route: string): Capacity {
    const { limits, routes, space } = this.options;
    const ofRoute = routes.byName(route)?.capacity;
    const free = space?.free;
    const uploadsByFiles = free && Math.floor(free.files / FILES_PER_UPLOAD);
    const uploads = Math.min(limits.all?.uploads ?? Infinity, uploadsByFiles ?? Infinity);
    return {
      all: { ...limits.all, ...(uploads < Infinity && { uploads }) },
      ...(ofRoute && { route: ofRoute }),
      ...(free && free.bytes < Infinity && { unwrittenBytes: free.bytes }),
    };
  }

  private async refuse(by: RefusedBy, upload: Candidate, waitSeconds?: number): Promise<Refusal> {
    this.options.metrics.uploadRefused(by);
    this.report(by, upload);
    await this.delay();
    return refusalFor(by, waitSeconds);
  }

  /** A client that is refused at once would ask again at once, and a flood of such requests would slow down all others. */
  private async delay(): Promise<void> {
    const { refusalDelayMs } = this.options;
    if (refusalDelayMs === 0 || this.delayedCount >= MAX_DELAYED) return;
    this.delayedCount++;
    try {
      await sleep(refusalDelayMs, undefined, { ref: false });
    } finally {
      this.delayedCount--;
    }
  }

  private report(by: RefusedBy, { route }: Candidate): void {
    const now = this.options.monotonic();
    const { at, count } = this.reports.get(by) ?? { at: -Infinity, count: 0 };
    if (now - at < LOG_INTERVAL_MS) {
      this.reports.set(by, { at, count: count + 1 });
      return;
    }
    this.reports.set(by, { at: now, count: 0 });
    this.options.log.warn({ limit: by, setting: SETTINGS[by], path: route, refused: count + 1 }, 'uploads are refused');
  }
}

/** The setting that decides about each limit. */
const SETTINGS: Readonly<Record<RefusedBy, string>> = {
  rate: 'limits.uploads.rate',
  'client-uploads': 'limits.uploads.per_client',
  'client-bytes': 'limits.uploads.bytes_per_client',
  'route-uploads': 'limits.max_uploads',
  'route-bytes': 'limits.max_spooled',
  'all-uploads': 'limits.uploads.total',
  'all-bytes': 'spool.max_bytes',
  'unwritten-bytes': 'spool.keep_free',
  files: 'spool.keep_free',
};

/** An ordinary request is held open by its client and ends with its answer, so connections limit how many there are. */
function isCounted({ dialect }: Candidate): boolean {
  return dialect !== PLAIN_DIALECT;
}

/** An upload that would not fit either if it were the only one is told so, instead of to try again. */
function refuseImpossible({ length }: Candidate, { all, route }: Capacity): Refusal | undefined {
  const maxSize = Math.min(all?.bytes ?? Infinity, route?.bytes ?? Infinity);
  const room = length === undefined ? 0 : roomOf({ phase: 'receiving', offset: 0, length });
  return room > maxSize ? { reason: 'too-large', maxSize } : undefined;
}

function refusalFor(by: RefusedBy, waitSeconds: number = RETRY_SECONDS.client): Refusal {
  switch (by) {
    case 'rate':
      return { reason: 'client-limit', limit: 'rate', retryAfterSeconds: waitSeconds };
    case 'client-uploads':
      return { reason: 'client-limit', limit: 'uploads', retryAfterSeconds: waitSeconds };
    case 'client-bytes':
      return { reason: 'client-limit', limit: 'bytes', retryAfterSeconds: waitSeconds };
    case 'route-uploads':
    case 'all-uploads':
      return { reason: 'unavailable', detail: BUSY, retryAfterSeconds: RETRY_SECONDS.server };
    case 'route-bytes':
    case 'all-bytes':
    case 'unwritten-bytes':
    case 'files':
      return { reason: 'storage-full' };
  }
}

const BUSY = 'As many uploads are under way here as are accepted. Nothing was stored.';
