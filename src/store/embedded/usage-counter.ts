import type { Upload } from '../../model/upload.js';
import { type Capacity, type Excess, HOLDS_BYTES, type Measured, type NoRoom, type Room, roomOf } from '../usage.js';

/** The names under which the room of an upload counts. */
type Owner = Pick<Upload, 'route' | 'client'>;

/** The room that a group of uploads takes, under the one text of its name that all rows share. */
interface Group {
  readonly name: string;
  uploads: number;
  bytes: number;
}

/** An amount of room. */
interface Amount {
  readonly uploads: number;
  readonly bytes: number;
  readonly unwrittenBytes: number;
}

/** The room that uploads take: of all, of each route and of each client. Groups without uploads take no memory. */
export class UsageCounter {
  private readonly all: Group = { name: '', uploads: 0, bytes: 0 };
  private readonly routes = new Map<string, Group>();
  private readonly clients = new Map<string, Group>();
  /** Bytes that are reserved and not written yet. */
  unwrittenBytes = 0;

  /** Counts an upload as it is now. Returns its names in the text that all uploads share. */
  add(upload: Owner & Measured): Owner {
    return this.change(upload, amountOf(upload), 1);
  }

  /** Takes back what `add` counted for an upload in the same state. */
  subtract(upload: Owner & Measured): void {
    this.change(upload, amountOf(upload), -1);
  }

  /**
   * Takes the room for a change from `before`, or for a new upload, so that no other step can take it meanwhile. The
   * caller gives it back as soon as the upload itself is counted, or the change has failed.
   */
  reserve(upload: Owner & Measured, capacity: Capacity, before?: Measured): (() => void) | NoRoom {
    const amount = difference(amountOf(upload), before && amountOf(before));
    const exceeds = this.excessOf(upload, amount, capacity);
    if (exceeds) return { exceeds };
    this.change(upload, amount, 1);
    return () => this.change(upload, amount, -1);
  }

  private excessOf({ route, client }: Owner, amount: Amount, capacity: Capacity): Excess | undefined {
    const { unwrittenBytes = Infinity } = capacity;
    const ofClient = client === undefined ? undefined : excessIn(this.clients.get(client), amount, capacity.client);
    if (ofClient) return `client-${ofClient}`;
    const ofRoute = excessIn(this.routes.get(route), amount, capacity.route);
    if (ofRoute) return `route-${ofRoute}`;
    const ofAll = excessIn(this.all, amount, capacity.all);
    if (ofAll) return `all-${ofAll}`;
    return exceeds(this.unwrittenBytes, amount.unwrittenBytes, unwrittenBytes) ? 'unwritten-bytes' : undefined;
  }

  private change({ route, client }: Owner, amount: Amount, sign: 1 | -1): Owner {
    this.unwrittenBytes += sign * amount.unwrittenBytes;
    addTo(this.all, amount, sign);
    return {
      route: changeIn(this.routes, route, amount, sign),
      ...(client !== undefined && { client: changeIn(this.clients, client, amount, sign) }),
    };
  }
}

const NOTHING: Amount = { uploads: 0, bytes: 0, unwrittenBytes: 0 };

function amountOf(upload: Measured): Amount {
  if (!HOLDS_BYTES.has(upload.phase)) return NOTHING;
  const bytes = roomOf(upload);
  return { uploads: 1, bytes, unwrittenBytes: bytes - upload.offset };
}

function difference(amount: Amount, before = NOTHING): Amount {
  return {
    uploads: amount.uploads - before.uploads,
    bytes: amount.bytes - before.bytes,
    unwrittenBytes: amount.unwrittenBytes - before.unwrittenBytes,
  };
}

function excessIn(
  { uploads, bytes }: Pick<Group, 'uploads' | 'bytes'> = NOTHING,
  amount: Amount,
  { uploads: maxUploads = Infinity, bytes: maxBytes = Infinity }: Room = {},
): 'uploads' | 'bytes' | undefined {
  if (exceeds(uploads, amount.uploads, maxUploads)) return 'uploads';
  return exceeds(bytes, amount.bytes, maxBytes) ? 'bytes' : undefined;
}

/** A step that takes no more is never refused, also where less is allowed than before. */
function exceeds(used: number, more: number, max: number): boolean {
  return more > 0 && used + more > max;
}

function changeIn(groups: Map<string, Group>, name: string, amount: Amount, sign: 1 | -1): string {
  const group = groups.get(name) ?? { name, uploads: 0, bytes: 0 };
  addTo(group, amount, sign);
  if (group.uploads === 0 && group.bytes === 0) groups.delete(name);
  else groups.set(name, group);
  return group.name;
}

function addTo(group: Group, { uploads, bytes }: Amount, sign: 1 | -1): void {
  group.uploads += sign * uploads;
  group.bytes += sign * bytes;
}
