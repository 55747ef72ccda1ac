import { describe, expect, test } from '@jest/globals';
import { grownWindow, GrowthBudget, sharedWindow } from '../../src/server/http2-windows.js';

const MIB = 2 ** 20;

describe('the window of a connection after one round trip', () => {
  test.each([
    ['nothing was read', 8, 0, 8],
    ['less than two thirds were read', 8, 5.3, 8],
    ['two thirds were read', 8, 5.4, 16],
    ['all of it was read', 8, 8, 16],
    ['more was read than fits: several windows in one round trip', 8, 20, 64],
    ['it is near the largest', 40, 39, 64],
    ['it is the largest', 64, 64, 64],
    ['it was set beyond the largest', 100, 100, 100],
  ])('when %s', (_, window, read, expected) => {
    expect(grownWindow(window * MIB, read * MIB)).toBe(expected * MIB);
  });
});

describe('the window of a stream', () => {
  test.each([
    [8 * MIB, 0, 8 * MIB],
    [8 * MIB, 1, 8 * MIB],
    [8 * MIB, 2, 4 * MIB],
    [8 * MIB, 3, 2 * MIB],
    [8 * MIB, 100, 65_536],
    // RFC 9113 §6.5.2: the protocol begins with it.
    [8 * MIB, 10_000, 65_535],
    [65_535, 1, 65_535],
  ])('of %d bytes among %d bodies is %d', (session, bodies, expected) => {
    expect(sharedWindow(session, bodies)).toBe(expected);
  });
});

test('the growth of all windows together is limited, and comes back', () => {
  const budget = new GrowthBudget(100);
  expect([budget.take(60), budget.take(41), budget.take(40), budget.take(1)]).toEqual([true, false, true, false]);
  budget.giveBack(60);
  expect([budget.take(61), budget.take(60)]).toEqual([false, true]);
});
