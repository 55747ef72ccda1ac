import { describe, expect, test } from '@jest/globals';
import { ChurningSet } from '../../src/model/churning-set.js';

describe('a set with members that come and go', () => {
  const membersOf = (set: ChurningSet<{ name: string; position: number }>) =>
    set
      .all()
      .map(({ name }) => name)
      .sort();

  test('contains those that were added and not deleted, whatever their order', () => {
    const set = new ChurningSet<{ name: string; position: number }>();
    const [a, b, c, d] = ['a', 'b', 'c', 'd'].map((name) => ({ name, position: 0 }));
    for (const member of [a!, b!, c!]) set.add(member);
    set.delete(a!);
    set.add(d!);
    expect(membersOf(set)).toEqual(['b', 'c', 'd']);
    set.delete(d!);
    set.delete(b!);
    expect([membersOf(set), set.size]).toEqual([['c'], 1]);
    set.delete(c!);
    expect(set.size).toBe(0);
  });

  test('ignores a member that was deleted before, even when another has its place', () => {
    const set = new ChurningSet<{ name: string; position: number }>();
    const [a, b] = ['a', 'b'].map((name) => ({ name, position: 0 }));
    set.add(a!);
    set.add(b!);
    set.delete(a!);
    set.delete(a!);
    expect(membersOf(set)).toEqual(['b']);
  });

  test('lists the members of one moment, so that they may leave meanwhile', () => {
    const set = new ChurningSet<{ name: string; position: number }>();
    for (const name of ['a', 'b', 'c']) set.add({ name, position: 0 });
    const all = set.all();
    for (const member of all) set.delete(member);
    expect([all.length, set.size]).toEqual([3, 0]);
  });
});
