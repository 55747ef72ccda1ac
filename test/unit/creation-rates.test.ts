import { expect, test } from '@jest/globals';
import { CreationRates } from '../../src/uploads/creation-rates.js';

test('a client creates its burst at once, and then as many as come to it with time', () => {
  const rates = new CreationRates({ perSecond: 2, burst: 3 });
  const at = (now: number, client = 'a'): number | undefined => rates.take(client, now);
  expect([at(0), at(0), at(0)]).toEqual([undefined, undefined, undefined]);
  expect(at(0)).toBeCloseTo(0.5);
  expect(at(400)).toBeCloseTo(0.1);
  expect([at(500), at(500)]).toEqual([undefined, expect.closeTo(0.5)]);
  expect([at(60_000), at(60_000), at(60_000), at(60_000)]).toEqual([
    undefined,
    undefined,
    undefined,
    expect.closeTo(0.5),
  ]);
});

test('what a refused client is told is true: it may create an upload then, and not before', () => {
  for (const perSecond of [1, 3, 7, 20, 1000]) {
    const rates = new CreationRates({ perSecond, burst: 5 });
    let now = 0;
    for (let count = 0; count < 50; count++) {
      const seconds = rates.take('a', now);
      if (seconds === undefined) continue;
      expect(rates.take('a', now + seconds * 1000 - 0.01)).toBeGreaterThan(0);
      now += seconds * 1000;
      expect(rates.take('a', now)).toBeUndefined();
    }
  }
});

test('one client does not use up what another has, and one that stands for many has no limit', () => {
  const rates = new CreationRates({ perSecond: 1, burst: 1 });
  expect([rates.take('a', 0), rates.take('b', 0)]).toEqual([undefined, undefined]);
  expect(rates.take('a', 0)).toBeGreaterThan(0);
  for (let count = 0; count < 100; count++) expect(rates.take(undefined, 0)).toBeUndefined();
});

test('clients are forgotten once they have all of their burst again, and beyond 10,000 of them', () => {
  const rates = new CreationRates({ perSecond: 1, burst: 1 });
  for (let client = 0; client < 15_000; client++) rates.take(`client ${client}`, 0);
  expect(rates.size).toBe(10_000);
  expect(rates.take('client 14999', 0)).toBeGreaterThan(0);
  rates.take('client 7', 2000);
  expect(rates.size).toBe(1);
});
