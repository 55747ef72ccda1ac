import type { CreateIntent } from '../model/intent.js';
import type { Route } from '../model/route.js';
import type { Upload } from '../model/upload.js';
import type { Metrics } from '../observe/metrics.js';
import type { Lease, Leases } from '../store/lease.js';
import type { NewUpload, UploadStore } from '../store/upload-store.js';
import { expiry } from './growing-chunk.js';

export interface OpeningRooms {
  readonly store: Pick<UploadStore, 'create' | 'createFirst'>;
  readonly leases: Pick<Leases, 'take'>;
  readonly metrics: Metrics;
  readonly clock: () => number;
  /** An unguessable id for a new upload: at least 128 random bits. */
  readonly newId: () => string;
  /** A key for the origin that says nothing about the id. */
  readonly newDeliveryKey: () => string;
  /** Where the bytes of new uploads are; missing where every node reaches them. */
  readonly node?: string;
}

/** What a creation brings that is kept as it is. */
export type Creation = Pick<NewUpload, 'request' | 'principal' | 'addedHeaders' | 'clientKey'>;

/** A new upload under its first lease. Both are asked for at once: nobody else knows the id yet. */
export async function openUpload(
  intent: CreateIntent,
  route: Route,
  creation: Creation,
  rooms: OpeningRooms,
): Promise<readonly [Upload, Lease]> {
  const id = rooms.newId();
  const creating = rooms.store.create(newUpload(id, intent, route, creation, rooms)).then((upload) => {
    rooms.metrics.uploadCreated(intent.dialect);
    return upload;
  });
  const taking = rooms.leases.take(id);
  try {
    return await Promise.all([creating, taking]);
  } catch (fault) {
    void taking.then(
      (lease) => lease.release(),
      () => undefined,
    );
    throw fault;
  }
}

/** The same for a creation with a client's key; gives the id of the upload that has it already. `instead`: one that is over. */
export async function openFirstUpload(
  intent: CreateIntent,
  route: Route,
  creation: Creation & { readonly clientKey: string },
  rooms: OpeningRooms,
  instead: string | undefined,
): Promise<readonly [Upload, Lease] | string> {
  const { clientKey } = creation;
  const upload = { ...newUpload(rooms.newId(), intent, route, creation, rooms), clientKey };
  const created = await rooms.store.createFirst(upload, instead);
  if (typeof created === 'string') return created;
  rooms.metrics.uploadCreated(intent.dialect);
  return [created, await rooms.leases.take(created.id)];
}

function newUpload(
  id: string,
  intent: CreateIntent,
  { name, limits }: Route,
  creation: Creation,
  { node, clock, newDeliveryKey }: OpeningRooms,
): NewUpload {
  const now = clock();
  return {
    id,
    ...(node !== undefined && { node }),
    ...creation,
    route: name,
    dialect: intent.dialect,
    limits,
    length: intent.declaredLength ?? (intent.complete ? intent.contentLength : undefined),
    reprDigests: intent.reprDigests,
    wantedReprDigest: intent.wantedReprDigest,
    deliveryKey: newDeliveryKey(),
    createdAt: now,
    expiresAt: expiry({ limits, dialect: intent.dialect }, { clock }),
  };
}
