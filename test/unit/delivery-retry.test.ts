import { describe, expect, test } from '@jest/globals';
import { afterAttempt, beforeAttempt, isRepeatable, retryAfterSeconds } from '../../src/delivery/retry.js';
import type { Attempt } from '../../src/model/upload.js';

const rules = {
  maxAttempts: 3,
  firstDelayMs: 100,
  longestDelayMs: 1000,
  retryOn: [502, 503, 504],
  whileWaitingMs: 60_000,
  inBackgroundMs: 60_000,
};
const once = { repeatable: false, rules };
const repeatable = { repeatable: true, rules };
const half = () => 0.5;

function attempt(fields: Partial<Attempt>): Attempt {
  return { number: 1, budgetFrom: 1, origin: 'http://o', startedAt: 0, ...fields };
}

test.each([
  ['POST', undefined, false],
  ['PATCH', undefined, false],
  ['QUERY', undefined, false],
  ['post', undefined, false],
  ['PUT', undefined, true],
  ['DELETE', undefined, true],
  ['POST', 'at_least_once', true],
  ['PUT', 'at_most_once', false],
] as const)('%s may be repeated (guarantee: %s): %s', (method, guarantee, expected) => {
  expect(isRepeatable(method, guarantee)).toBe(expected);
});

describe('after an attempt', () => {
  const neverSent = { reached: 'never-sent', problem: 'ECONNREFUSED' } as const;
  const sent = { reached: 'sent', problem: 'reset' } as const;
  const refused = { reached: 'answered', status: 503 } as const;
  const answered = { reached: 'answered', status: 201 } as const;
  const open = {};
  const unreachable = { reason: 'unreachable', problem: 'ECONNREFUSED' };
  const unknown = { reason: 'outcome-unknown', problem: 'reset' };
  const lost = { reason: 'outcome-unknown', problem: 'the proxy stopped before it had recorded an answer' };

  test.each([
    ['never sent', neverSent, once, 1, 'again'],
    ['never sent', neverSent, once, 2, 'again'],
    ['never sent', neverSent, once, 3, unreachable],
    ['never sent', neverSent, repeatable, 3, unreachable],
    ['sent, no answer', sent, once, 1, unknown],
    ['sent, no answer', sent, repeatable, 1, 'again'],
    ['sent, no answer', sent, repeatable, 3, unknown],
    ['refused by retry_on', refused, once, 1, 'again'],
    ['refused by retry_on', refused, once, 3, { reason: 'refused', status: 503, problem: 'the origin answered 503' }],
    ['never ended', open, once, 1, lost],
    ['never ended', open, repeatable, 1, 'again'],
    ['answered, but not recorded', answered, once, 1, lost],
    ['answered, but not recorded', answered, repeatable, 1, 'again'],
  ])('%s (%j, %j), failure %i', (_name, how, policy, number, expected) => {
    const verdict = afterAttempt(attempt({ number, ...how }), policy, half);
    expect(verdict.kind === 'give-up' ? verdict.why : verdict.kind).toEqual(expected);
  });

  test('a budget begins where its first attempt says', () => {
    expect(afterAttempt(attempt({ number: 7, budgetFrom: 6, ...neverSent }), once, half).kind).toBe('again');
    expect(afterAttempt(attempt({ number: 8, budgetFrom: 6, ...neverSent }), once, half).kind).toBe('give-up');
  });

  test.each([
    [1, 0, 50],
    [1, 1, 100],
    [2, 0.5, 150],
    [3, 1, 400],
    [5, 1, 1000],
    [60, 0, 500],
  ])(
    'delays double up to the longest, jitter takes up to half: failure %i, random %f → %i ms',
    (number, random, ms) => {
      const patient = { repeatable: false, rules: { ...rules, maxAttempts: 100 } };
      const verdict = afterAttempt(attempt({ number, ...neverSent }), patient, () => random);
      expect(verdict).toEqual({ kind: 'again', afterMs: ms });
    },
  );
});

describe('before an attempt', () => {
  test.each([
    ['nothing was tried', undefined, false, { kind: 'send', number: 1, budgetFrom: 1 }],
    ['never sent', attempt({ reached: 'never-sent' }), false, { kind: 'send', number: 2, budgetFrom: 1 }],
    ['refused', attempt({ reached: 'answered', status: 502 }), false, { kind: 'send', number: 2, budgetFrom: 1 }],
    ['maybe sent, and a client asks', attempt({}), true, { kind: 'send', number: 2, budgetFrom: 2 }],
    [
      'budget used up, and a client asks',
      attempt({ number: 3, reached: 'never-sent' }),
      true,
      { kind: 'send', number: 4, budgetFrom: 4 },
    ],
  ])('%s: it is sent', (_name, newest, asked, expected) => {
    expect(beforeAttempt(newest, asked, once)).toEqual(expected);
  });

  test.each([
    ['maybe sent', attempt({}), 'outcome-unknown'],
    ['sent', attempt({ reached: 'sent' }), 'outcome-unknown'],
    ['answered, answer lost', attempt({ reached: 'answered', status: 500 }), 'outcome-unknown'],
    ['budget used up', attempt({ number: 3, reached: 'never-sent' }), 'unreachable'],
  ])('%s, and nobody asks: it is not sent', (_name, newest, reason) => {
    expect(beforeAttempt(newest, false, once)).toMatchObject({ kind: 'give-up', why: { reason } });
  });

  test('what may be repeated is sent, within the budget of the attempt before', () => {
    const newest = attempt({ number: 4, budgetFrom: 3 });
    expect(beforeAttempt(newest, false, repeatable)).toEqual({ kind: 'send', number: 5, budgetFrom: 3 });
  });
});

test.each([
  [undefined, 1],
  [attempt({ number: 1 }), 1],
  [attempt({ number: 20 }), 30],
])('Retry-After is the next delay in whole seconds, at least one', (newest, seconds) => {
  expect(retryAfterSeconds(newest, { ...rules, firstDelayMs: 500, longestDelayMs: 30_000 })).toBe(seconds);
});
