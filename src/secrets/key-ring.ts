import { createCipheriv, createDecipheriv, hkdfSync, randomBytes as systemRandomBytes } from 'node:crypto';
import { Fault } from '../model/fault.js';

/** A key that seals values, made of the text that an operator or the proxy has chosen. */
export interface SealingKey {
  /** Names the key in each sealed value; the key cannot be derived from it. */
  readonly id: string;
  /** Not a `KeyObject`, which makes each use slower. */
  readonly key: Buffer;
}

/** The keys of a source, the one that seals first. */
export type ReadKeys = () => readonly SealingKey[];

const CIPHER = 'aes-256-gcm';
const NONCE_BYTES = 12;
const TAG_BYTES = 16;
const NONCES_PER_DRAW = 128;
const FORM = /^1\.([A-Za-z0-9_-]{8})\.([A-Za-z0-9_-]+)$/;

/** The key for a text, which is as hard to guess as the text itself. `purpose`: texts with another use give other keys. */
export function sealingKey(text: string, purpose = 'secrets'): SealingKey {
  const derive = (info: string, bytes: number): Buffer =>
    Buffer.from(hkdfSync('sha256', text, 'rufh-proxy', `${purpose}: ${info}`, bytes));
  return { id: derive('id', 6).toString('base64url'), key: derive('key', 32) };
}

/**
 * Seals values with AES-256-GCM. The first key seals, every key opens. A value belongs to its context, so it cannot be
 * moved to another record or field.
 * Reasons: docs/decisions/0038.
 */
export class KeyRing {
  private keys: readonly SealingKey[] = [];
  private readonly byId = new Map<string, SealingKey>();
  /** Random bytes for the next nonces: drawing many at once costs as much as drawing one. */
  private nonces: Buffer = Buffer.alloc(0);

  /** `readKeys` is called again for a value that no key opens, because another process may have added its key since. */
  constructor(
    private readonly readKeys: ReadKeys,
    private readonly randomBytes: (size: number) => Buffer = systemRandomBytes,
  ) {
    this.reload();
  }

  /** Whether there is a key. */
  get canSeal(): boolean {
    return this.keys.length > 0;
  }

  /** The id of the key that seals. */
  get sealsWith(): string {
    return this.first.id;
  }

  /** Reads the keys again. Keys that are gone still open what this process may have in memory. */
  reload(): void {
    const keys = this.readKeys();
    // A file that is gone does not make the known keys useless.
    if (keys.length > 0) this.keys = keys;
    for (const key of this.keys) this.byId.set(key.id, key);
  }

  seal(text: string, context: string): string {
    const { id, key } = this.first;
    const nonce = this.nextNonce();
    const cipher = createCipheriv(CIPHER, key, nonce).setAAD(Buffer.from(context));
    const sealed = Buffer.concat([nonce, cipher.update(text, 'utf8'), cipher.final(), cipher.getAuthTag()]);
    return `1.${id}.${sealed.toString('base64url')}`;
  }

  /** The text; undefined if no key opens the value, or it is damaged or of another context. */
  open(sealed: string, context: string): string | undefined {
    const [, id, encoded = ''] = FORM.exec(sealed) ?? [];
    const key = id === undefined ? undefined : this.find(id);
    const bytes = Buffer.from(encoded, 'base64url');
    if (!key || bytes.length < NONCE_BYTES + TAG_BYTES) return undefined;
    const decipher = createDecipheriv(CIPHER, key.key, bytes.subarray(0, NONCE_BYTES))
      .setAAD(Buffer.from(context))
      .setAuthTag(bytes.subarray(-TAG_BYTES));
    try {
      return decipher.update(bytes.subarray(NONCE_BYTES, -TAG_BYTES), undefined, 'utf8') + decipher.final('utf8');
    } catch {
      return undefined;
    }
  }

  private nextNonce(): Buffer {
    if (this.nonces.length === 0) this.nonces = this.randomBytes(NONCES_PER_DRAW * NONCE_BYTES);
    const nonce = this.nonces.subarray(0, NONCE_BYTES);
    this.nonces = this.nonces.subarray(NONCE_BYTES);
    return nonce;
  }

  private get first(): SealingKey {
    if (this.keys.length === 0) this.reload();
    const [first] = this.keys;
    if (!first) throw new Fault('STORAGE_FULL', 'there is no key for credentials, because the disk was full', true);
    return first;
  }

  private find(id: string): SealingKey | undefined {
    if (!this.byId.has(id)) this.reload();
    return this.byId.get(id);
  }
}

/** The id of the key that sealed a value; undefined if it has another form. */
export function keyIdOf(sealed: string): string | undefined {
  return FORM.exec(sealed)?.[1];
}
