import type { Upload } from '../model/upload.js';
import type { KeyFile } from '../secrets/key-file.js';
import type { KeyRing } from '../secrets/key-ring.js';
import type { UploadSecrets } from '../secrets/upload-secrets.js';
import { everyUpload, type UploadStore } from '../store/upload-store.js';

export interface KeyRotationOptions {
  readonly store: Pick<UploadStore, 'list' | 'reseal'>;
  /** Records that cannot be read now: they may need any key. */
  readonly setAsideRecords: () => Promise<readonly unknown[]>;
  readonly secrets: UploadSecrets;
  readonly ring: KeyRing;
  /** Missing if the keys are in the configuration, or in a file of each node. */
  readonly keyFile?: KeyFile;
  /** Other processes read the same file: they need time to notice a new key. */
  readonly isShared: boolean;
  /** Lower-case names of the fields with credentials on the route of an upload. */
  readonly credentialsOf: (upload: Upload) => readonly string[] | undefined;
  /** Milliseconds since the epoch. */
  readonly clock: () => number;
}

/** Time in which every process reads a changed key file. */
export const KEYS_REFRESH_MS = 10_000;
const NOTICED_MS = 3 * KEYS_REFRESH_MS;

/** The uploads of one page, sealed with the newest key. */
export interface ResealedPage {
  readonly resealed: number;
  /** Uploads with a value that no key opens. */
  readonly unreadable: number;
  /** Where the next page begins; missing after the last one. */
  readonly next?: string;
}

/**
 * The outcome of dropping the older keys: how many uploads still need them, or how long to wait first. `not-ours`: no
 * upload needs them, and the operator can take them out of the configuration.
 */
export type DroppedKeys =
  | { readonly kind: 'dropped' }
  | { readonly kind: 'in-use'; readonly uploads: number }
  | { readonly kind: 'wait'; readonly ms: number }
  | { readonly kind: 'not-ours' };

/**
 * The steps of a rotation: a new key, every record under it, then no older key. Each step can be repeated, so a rotation
 * that breaks off at any point is completed by another one, and no step leaves a value without its key.
 * Reasons: docs/decisions/0038.
 */
export class KeyRotation {
  constructor(private readonly options: KeyRotationOptions) {}

  /** Adds a key in front, unless the configuration has the keys. Returns the id of the key that seals from now on. */
  async addKey(): Promise<{ readonly key: string; readonly isNew: boolean }> {
    const { keyFile, ring } = this.options;
    await keyFile?.add();
    ring.reload();
    return { key: ring.sealsWith, isNew: keyFile !== undefined };
  }

  /** Seals the secrets of one page of uploads with the newest key. */
  async resealPage(after: string | undefined, limit: number): Promise<ResealedPage> {
    const { store } = this.options;
    const { uploads, next } = await store.list(after, limit);
    let resealed = 0;
    let unreadable = 0;
    for (const upload of uploads) {
      if ((await this.reseal(upload)) === 'resealed') resealed++;
      if (this.options.secrets.isUnreadable(upload)) unreadable++;
    }
    return { resealed, unreadable, ...(next !== undefined && { next }) };
  }

  /** Drops every key but the newest, once no upload needs another. */
  async dropOlderKeys(): Promise<DroppedKeys> {
    const { keyFile, ring, isShared, clock, store, secrets, setAsideRecords } = this.options;
    if (keyFile && isShared) {
      const sinceMs = clock() - (await keyFile.changedAt());
      if (sinceMs < NOTICED_MS) return { kind: 'wait', ms: NOTICED_MS - sinceMs };
    }
    ring.reload();
    let uploads = (await setAsideRecords()).length;
    for await (const upload of everyUpload(store)) if (secrets.needsOlderKey(upload)) uploads++;
    if (uploads > 0) return { kind: 'in-use', uploads };
    if (!keyFile) return { kind: 'not-ours' };
    await keyFile.dropOthers(ring.sealsWith);
    return { kind: 'dropped' };
  }

  private reseal({ id }: Upload): Promise<'resealed' | 'unchanged' | 'gone'> {
    const { store, secrets, credentialsOf } = this.options;
    return store.reseal(id, (upload) => secrets.reseal(upload, credentialsOf(upload)));
  }
}
