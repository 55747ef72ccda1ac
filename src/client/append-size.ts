const KIB = 1024;
const MIB = 1024 * KIB;

/** Smaller appends are not tried, unless the server allows no larger ones. */
const SMALLEST = 64 * KIB;

/** Cloudflare and many other hops refuse bodies above 100 MB; half a minute of a fast line is enough for one append. */
export const USUAL_SIZES: AppendSizes = { first: 4 * MIB, largest: 64 * MIB };

const QUICK_MS = 5_000;
const SLOW_MS = 30_000;

/** Sizes of appends in bytes: the first one, and the largest one that is tried. */
export interface AppendSizes {
  readonly first: number;
  readonly largest: number;
}

/**
 * The size of the next append, in bytes. It doubles while appends are quick, and is halved when one is slow, cut or too
 * large for a hop. The limits of the server are obeyed (RUFH §4.1.4).
 */
export class AppendSize {
  private smallest = SMALLEST;
  private largest: number;
  private wanted: number;

  constructor({ first, largest }: AppendSizes) {
    this.wanted = first;
    this.largest = largest;
  }

  get bytes(): number {
    return Math.min(Math.max(this.wanted, this.smallest), this.largest);
  }

  /** Obeys an `Upload-Limit` field. */
  obey(limits: string | null): void {
    this.largest = Math.min(this.largest, limitIn(limits, 'max-append-size') ?? this.largest);
    this.smallest = Math.max(this.smallest, limitIn(limits, 'min-append-size') ?? 0);
  }

  succeeded(tookMs: number): void {
    if (tookMs < QUICK_MS) this.wanted = Math.min(this.bytes * 2, this.largest);
    if (tookMs > SLOW_MS) this.wanted = this.bytes / 2;
  }

  /** An append of this size did not reach its end, perhaps because of its size. */
  failed(size: number): void {
    this.largest = Math.min(this.largest, USUAL_SIZES.largest);
    this.wanted = Math.min(this.bytes, size) / 2;
  }

  /** A hop refused an append of this size, so none as large is tried again. False if no smaller one is possible. */
  tooLarge(size: number): boolean {
    this.failed(size);
    this.largest = this.bytes;
    return this.bytes < size;
  }
}

/** A member of an `Upload-Limit` field; undefined if it is missing. */
export function limitIn(limits: string | null, name: string): number | undefined {
  const value = new RegExp(`(?:^|[ ,])${name}=(\\d+)`).exec(limits ?? '')?.[1];
  return value === undefined ? undefined : Number(value);
}
