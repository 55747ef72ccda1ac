/** A member of a `ChurningSet`. */
export interface ChurningMember {
  /** Owned by the set. */
  position: number;
}

/**
 * A set whose members come and go with every request. In V8 (seen on Node 20) each table that a `Set` has outgrown keeps
 * a reference to the next one. Once one of them has been moved to the old space, all later tables, and the requests
 * that were in them, survive until the next full collection.
 */
export class ChurningSet<T extends ChurningMember> {
  private readonly members: T[] = [];

  get size(): number {
    return this.members.length;
  }

  add(member: T): void {
    member.position = this.members.push(member) - 1;
  }

  /** Does nothing for a member that is not in the set any more. */
  delete(member: T): void {
    const { members } = this;
    if (members[member.position] !== member) return;
    const last = members.pop()!;
    if (last === member) return;
    members[member.position] = last;
    last.position = member.position;
  }

  /** The members at this moment, in no order. */
  all(): readonly T[] {
    return [...this.members];
  }
}
