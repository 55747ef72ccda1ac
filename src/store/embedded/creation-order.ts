/** The part of an upload that decides its place in the order. */
export interface Created {
  readonly id: string;
  readonly createdAt: number;
}

/** A place in the order: after every upload that was created earlier, and among those of one moment by the id. */
export type CreationPlace = Created;

/**
 * All uploads in the order of their creation, so that a page of a list costs what is on it. The order is made when it is
 * asked for the first time. An addition usually goes to the end, and removed uploads are dropped together.
 */
export class CreationOrder<T extends Created> {
  private sorted: T[] | undefined;
  private readonly removed = new Set<T>();

  /** `all`: the uploads that exist when the order is made. */
  constructor(private readonly all: () => Iterable<T>) {}

  add(item: T): void {
    const { sorted } = this;
    if (!sorted) return;
    const last = sorted.at(-1);
    if (!last || compare(last, item) < 0) sorted.push(item);
    else sorted.splice(firstFrom(sorted, item), 0, item);
  }

  delete(item: T): void {
    if (!this.sorted) return;
    this.removed.add(item);
    if (this.removed.size <= this.sorted.length / 2) return;
    this.sorted = this.sorted.filter((one) => !this.removed.has(one));
    this.removed.clear();
  }

  /** Up to `limit` uploads before this place, the newest first; without a place the newest of all. */
  before(place: CreationPlace | undefined, limit: number): T[] {
    const sorted = (this.sorted ??= [...this.all()].sort(compare));
    const found: T[] = [];
    let at = place ? firstFrom(sorted, place) : sorted.length;
    while (at > 0 && found.length < limit) {
      const item = sorted[--at]!;
      if (!this.removed.has(item)) found.push(item);
    }
    return found;
  }
}

function compare(one: Created, other: Created): number {
  if (one.createdAt !== other.createdAt) return one.createdAt - other.createdAt;
  if (one.id === other.id) return 0;
  return one.id < other.id ? -1 : 1;
}

/** The index of the first item that is not before the place. */
function firstFrom(sorted: readonly Created[], place: CreationPlace): number {
  let low = 0;
  for (let high = sorted.length; low < high;) {
    const middle = (low + high) >>> 1;
    if (compare(sorted[middle]!, place) < 0) low = middle + 1;
    else high = middle;
  }
  return low;
}
