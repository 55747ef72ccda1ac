import { type Phase, PHASES, PLAIN_DIALECT, type Upload } from '../../model/upload.js';
import type { Totals } from '../upload-store.js';
import { HOLDS_BYTES } from '../usage.js';
import { CreationOrder } from './creation-order.js';
import type { Claim } from './transitions.js';
import { UsageCounter } from './usage-counter.js';

/**
 * The part of an upload that always stays in memory: enough to count, order and expire it, and to find that its delivery
 * is due. The fields of `Upload` have the values of its record.
 */
export interface IndexRow {
  readonly id: string;
  readonly createdAt: number;
  phase: Phase;
  offset: number;
  length: number | undefined;
  route: string;
  client: string | undefined;
  expiresAt: number;
  dueAt: number | undefined;
  /** While the record is not in memory: the claim on its delivery. */
  claim: Claim | undefined;
  /** While the record is not in memory: the token of the newest lease, which may not be in the file. */
  token: number;
  /** While the record is not in memory: the size of the lines that its file had last, and must still have. */
  lineBytes: number;
  /** While the record is not in memory: a power cut would leave its file as it is. */
  isCertain: boolean;
  /** While the record is not in memory: the upload was given up because of its bytes, and its files are kept. */
  isLost: boolean;
}

/**
 * One row for each upload, also for those whose records are only on the disk. A row takes about 250 bytes.
 * Reasons: docs/decisions/0034.
 */
export class RecordIndex {
  private readonly rows = new Map<string, IndexRow>();
  /** The uploads that are complete or being delivered. */
  private readonly deliveries = new Set<IndexRow>();
  private readonly order = new CreationOrder(() => this.rows.values());
  private readonly counts: Partial<Record<Phase, number>> = {};
  private heldBytes = 0;
  readonly usage = new UsageCounter();
  /** The id of the upload that has a client's key, by that key. */
  private readonly idsByClientKey = new Map<string, string>();
  /** Uploads found at the start whose records and bytes have not been compared yet. */
  readonly unchecked = new Set<string>();

  has(id: string): boolean {
    return this.rows.has(id);
  }

  get(id: string): IndexRow | undefined {
    return this.rows.get(id);
  }

  ids(): IterableIterator<string> {
    return this.rows.keys();
  }

  all(): IterableIterator<IndexRow> {
    return this.rows.values();
  }

  /** The uploads that may be due for delivery. */
  awaitingDelivery(): Iterable<IndexRow> {
    return this.deliveries;
  }

  /** Adds an upload, or takes over its changes. */
  put(upload: Upload): IndexRow {
    const known = this.rows.get(upload.id);
    if (known) this.uncount(known);
    const row = known ?? newRow(upload);
    row.phase = phaseOf(upload);
    row.offset = upload.offset;
    row.length = upload.length;
    row.route = upload.route;
    row.client = upload.client;
    row.expiresAt = upload.expiresAt;
    row.dueAt = upload.dueAt;
    this.count(row);
    if (known) return row;
    this.rows.set(row.id, row);
    this.order.add(row);
    if (upload.clientKey !== undefined) this.registerClientKey(upload.clientKey, row);
    return row;
  }

  delete({ id, clientKey }: Pick<Upload, 'id' | 'clientKey'>): void {
    this.unchecked.delete(id);
    const row = this.rows.get(id);
    if (!row) return;
    this.uncount(row);
    this.rows.delete(id);
    this.order.delete(row);
    if (clientKey !== undefined && this.idsByClientKey.get(clientKey) === id) this.idsByClientKey.delete(clientKey);
  }

  /** As `delete`, for an upload whose record cannot be asked for its client's key any more. */
  deleteById(id: string): void {
    for (const [clientKey, each] of this.idsByClientKey) if (each === id) this.idsByClientKey.delete(clientKey);
    this.delete({ id });
  }

  idByClientKey(clientKey: string): string | undefined {
    return this.idsByClientKey.get(clientKey);
  }

  totals(): Totals {
    const phases: Partial<Record<Phase, number>> = {};
    for (const phase of PHASES) if (this.counts[phase]) phases[phase] = this.counts[phase];
    return { phases, bytes: this.heldBytes, reservedBytes: this.usage.unwrittenBytes };
  }

  /** See `CreationOrder.before`. */
  before(...args: Parameters<CreationOrder<IndexRow>['before']>): IndexRow[] {
    return this.order.before(...args);
  }

  /**
   * Notes that an upload of the start has still to be compared with its bytes. One that has none by its record needs it
   * only if there is a directory of it, or if it is an ordinary request, which nobody can continue.
   */
  noteFound({ id, phase, offset, dialect }: Upload): void {
    const isCutOff = phase === 'receiving' && dialect === PLAIN_DIALECT;
    if (HOLDS_BYTES.has(phase) && (offset > 0 || isCutOff)) this.unchecked.add(id);
  }

  /** Notes that the spool has a directory of this upload; false if the upload is unknown. */
  noteSpooled(id: string): boolean {
    const row = this.rows.get(id);
    if (row && HOLDS_BYTES.has(row.phase)) this.unchecked.add(id);
    return row !== undefined;
  }

  /** Of two uploads with one key, as a start may find them, the newer one has replaced the other. */
  private registerClientKey(clientKey: string, { id, createdAt }: IndexRow): void {
    const other = this.rows.get(this.idsByClientKey.get(clientKey) ?? id);
    if (!other || other.createdAt <= createdAt) this.idsByClientKey.set(clientKey, id);
  }

  private count(row: IndexRow): void {
    this.add(row, 1);
    // The shared texts: those of the record would take memory for each upload.
    Object.assign(row, this.usage.add(row));
    if (row.phase === 'complete' || row.phase === 'delivering') this.deliveries.add(row);
  }

  private uncount(row: IndexRow): void {
    this.add(row, -1);
    this.usage.subtract(row);
    this.deliveries.delete(row);
  }

  private add({ phase, offset }: IndexRow, sign: 1 | -1): void {
    this.counts[phase] = (this.counts[phase] ?? 0) + sign;
    if (HOLDS_BYTES.has(phase)) this.heldBytes += sign * offset;
  }
}

function newRow({ id, createdAt }: Upload): IndexRow {
  return {
    id,
    createdAt,
    phase: 'receiving',
    offset: 0,
    length: undefined,
    route: '',
    client: undefined,
    expiresAt: 0,
    dueAt: undefined,
    claim: undefined,
    token: 0,
    lineBytes: 0,
    isCertain: false,
    isLost: false,
  };
}

/** The shared text of the phase: one that was parsed from a file would take memory for each upload. */
function phaseOf({ phase }: Upload): Phase {
  return PHASES.find((known) => known === phase) ?? phase;
}
