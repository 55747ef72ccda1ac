import { describe, expect, test } from '@jest/globals';
import { DeliveryClaim } from '../../src/delivery/claim.js';
import { keptAnswer } from '../../src/delivery/kept-answer.js';
import {
  RetryBudget,
  afterAttempt,
  beforeAttempt,
  isRepeatable,
  mayRetry,
  meaningOf,
  retryAfterMs,
  retryAfterSeconds,
  secondsUntil,
} from '../../src/delivery/retry-policy.js';
import { Fault } from '../../src/model/fault.js';
import type { Answer, Attempt, Undelivered, Upload } from '../../src/model/upload.js';
import { silentLog } from '../../src/observe/log.js';
import { Metrics } from '../../src/observe/metrics.js';
import { retryWhileUnavailable } from '../../src/store/upload-store.js';
import { answer, newId, newUpload } from '../contract/sample-upload.js';
import { until } from '../support/temporary.js';
import { testSecrets } from '../support/secrets.js';

describe('retry policy', () => {
  const rules = {
    maxAttempts: 3,
    firstDelayMs: 100,
    longestDelayMs: 1000,
    retryOn: [502, 503, 504],
    whileWaitingMs: 60_000,
    inBackgroundMs: 0,
  };
  const parkOn = [401, 407];
  const once = { repeatable: false, rules, parkOn };
  const repeatable = { repeatable: true, rules, parkOn };
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
    expect(isRepeatable({ method, headers: [] }, guarantee)).toBe(expected);
  });

  // Of two equal requests under a condition the second fails, although the first was carried out (RFC 9110 §13.1).
  test.each([
    ['PUT', 'If-Match', undefined, false],
    ['PUT', 'if-none-match', undefined, false],
    ['PUT', 'If-Unmodified-Since', undefined, false],
    ['PUT', 'IF', undefined, false],
    ['DELETE', 'If-Match', undefined, false],
    ['PUT', 'If-Modified-Since', undefined, true],
    ['PUT', 'If-Range', undefined, true],
    ['GET', 'If-None-Match', undefined, true],
    ['HEAD', 'If-Unmodified-Since', undefined, true],
    ['OPTIONS', 'If-Match', undefined, true],
    ['PUT', 'If-Match', 'at_least_once', true],
    ['PUT', 'If-None-Match', 'at_most_once', false],
  ] as const)('%s with %s may be repeated (guarantee: %s): %s', (method, condition, guarantee, expected) => {
    expect(isRepeatable({ method, headers: [[condition, '"1"']] }, guarantee)).toBe(expected);
  });

  describe('what a response means to a delivery', () => {
    const answers = [
      200, 204, 302, 400, 403, 404, 408, 409, 413, 419, 422, 425, 440, 498, 500, 501, 505, 507, 520, 599,
    ];
    const byGuarantee = { ...rules, retryOn: undefined };

    test.each([
      ...answers.map((status) => [status, 'answer', 'answer', 'answer', 'answer'] as const),
      [401, 'challenge', 'challenge', 'challenge', 'challenge'],
      [407, 'challenge', 'challenge', 'challenge', 'challenge'],
      [429, 'answer', 'refusal', 'answer', 'refusal'],
      [502, 'unknown', 'unknown', 'refusal', 'refusal'],
      [503, 'refusal', 'refusal', 'refusal', 'refusal'],
      [504, 'unknown', 'unknown', 'refusal', 'refusal'],
    ] as const)('%i: at most once %s, with Retry-After %s; at least once %s, with it %s', (status, ...expected) => {
      const meanings = [false, true].flatMap((repeats) =>
        [false, true].map((saysWhen) =>
          meaningOf(status, saysWhen, { repeatable: repeats, rules: byGuarantee, parkOn }),
        ),
      );
      expect(meanings).toEqual(expected);
    });

    test.each([
      [[], 503, 'answer'],
      [[], 504, 'answer'],
      [[503], 504, 'answer'],
      [[502, 504], 504, 'refusal'],
      [[429], 429, 'refusal'],
      [[401], 401, 'refusal'],
    ] as const)('retry_on %j says it of %i, whatever the guarantee: %s', (retryOn, status, expected) => {
      for (const repeats of [false, true])
        expect(meaningOf(status, false, { repeatable: repeats, rules: { ...rules, retryOn }, parkOn })).toBe(expected);
    });

    test.each([403, 419, 440, 498])('park_on says of %i that other credentials are wanted', (status) => {
      expect(meaningOf(status, false, { ...once, parkOn: [status] })).toBe('challenge');
      expect(meaningOf(401, false, { ...once, parkOn: [status] })).toBe('answer');
    });
  });

  describe('after an attempt', () => {
    const neverSent = { reached: 'never-sent', problem: 'ECONNREFUSED' } as const;
    const sent = { reached: 'sent', problem: 'reset' } as const;
    const refused = { reached: 'answered', status: 503 } as const;
    const answered = { reached: 'answered', status: 201 } as const;
    const challenged = { reached: 'answered', status: 401, problem: 'the origin answered 401' } as const;
    const unauthorized = { reason: 'unauthorized', status: 401, problem: 'the origin answered 401' };
    const open = {};
    const unreachable = { reason: 'unreachable', problem: 'ECONNREFUSED' };
    const unknown = { reason: 'outcome-unknown', problem: 'reset' };
    const lost = { reason: 'outcome-unknown', problem: 'the proxy stopped before it had recorded an answer' };

    test.each([
      ['never sent', neverSent, once, 1, 'retry'],
      ['never sent', neverSent, once, 2, 'retry'],
      ['never sent', neverSent, once, 3, unreachable],
      ['never sent', neverSent, repeatable, 3, unreachable],
      ['sent, no answer', sent, once, 1, unknown],
      ['sent, no answer', sent, repeatable, 1, 'retry'],
      ['sent, no answer', sent, repeatable, 3, unknown],
      ['refused by retry_on', refused, once, 1, 'retry'],
      ['refused by retry_on', refused, once, 3, { reason: 'refused', status: 503, problem: 'the origin answered 503' }],
      ['challenged', challenged, once, 1, unauthorized],
      ['challenged', challenged, repeatable, 1, unauthorized],
      ['never ended', open, once, 1, lost],
      ['never ended', open, repeatable, 1, 'retry'],
      ['answered, but not recorded', answered, once, 1, lost],
      ['answered, but not recorded', answered, repeatable, 1, 'retry'],
    ])('%s (%j, %j), failure %i', (_name, how, policy, number, expected) => {
      const decision = afterAttempt(attempt({ number, ...how }), policy, half);
      expect(decision.kind === 'give-up' ? decision.failure : decision.kind).toEqual(expected);
    });

    test('a budget begins where its first attempt says', () => {
      expect(afterAttempt(attempt({ number: 7, budgetFrom: 6, ...neverSent }), once, half).kind).toBe('retry');
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
        const patient = { repeatable: false, parkOn, rules: { ...rules, maxAttempts: 100, whileWaitingMs: 60_000 } };
        const decision = afterAttempt(attempt({ number, ...neverSent }), patient, () => random);
        const why = { reason: 'unreachable', problem: 'ECONNREFUSED' };
        expect(decision).toEqual({ kind: 'retry', dueAt: ms, failure: why });
      },
    );

    describe('budgets', () => {
      const patient = { ...rules, inBackgroundMs: 10_000 };
      const decisionOf = (fields: Partial<Attempt>, of: Partial<typeof rules> = {}) =>
        afterAttempt(
          attempt({ ...neverSent, ...fields }),
          { repeatable: false, parkOn, rules: { ...patient, ...of } },
          () => 1,
        );

      test.each([
        [
          'the number of attempts does not end what goes on in the background',
          { number: 9, endedAt: 9000 },
          {},
          10_000,
        ],
        ['the time in the background does', { number: 9, endedAt: 9001 }, {}, 'give-up'],
        ['it counts from the beginning of the budget', { number: 9, endedAt: 9001, budgetSince: 1 }, {}, 10_001],
        ['not from the attempt’s own', { number: 9, startedAt: 8000, endedAt: 9001, budgetSince: 0 }, {}, 'give-up'],
        ['a client is waited for within its time', { endedAt: 60_000 }, { inBackgroundMs: 0 }, 'give-up'],
        ['and while it is not over', { endedAt: 59_900 }, { inBackgroundMs: 0 }, 60_000],
        ['Retry-After is honoured', { endedAt: 1000, notBefore: 4000 }, {}, 4000],
        ['as far as the budget goes', { endedAt: 1000, notBefore: 4_000_000 }, { whileWaitingMs: 0 }, 10_000],
        ['one that is over sooner than the pause changes nothing', { endedAt: 1000, notBefore: 1050 }, {}, 1100],
        ['an end before the beginning is a clock that was set', { startedAt: 5000, endedAt: 1 }, {}, 5100],
      ])('%s', (_name, fields, of, expected) => {
        const decision = decisionOf(fields, of);
        expect(decision.kind === 'retry' ? decision.dueAt : decision.kind).toBe(expected);
      });
    });
  });

  describe('before an attempt', () => {
    const SECOND = { kind: 'send', number: 2, budgetFrom: 1, budgetSince: 0 } as const;

    test.each([
      ['nothing was tried', undefined, false, { kind: 'send', number: 1, budgetFrom: 1 }],
      ['never sent', attempt({ reached: 'never-sent' }), false, { ...SECOND }],
      ['refused', attempt({ reached: 'answered', status: 502 }), false, { ...SECOND }],
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
      expect(beforeAttempt(newest, false, once)).toMatchObject({ kind: 'give-up', failure: { reason } });
    });

    test('what may be repeated is sent, within the budget of the attempt before', () => {
      const newest = attempt({ number: 4, budgetFrom: 3, startedAt: 70, budgetSince: 7 });
      const expected = { kind: 'send', number: 5, budgetFrom: 3, budgetSince: 7 };
      expect(beforeAttempt(newest, false, repeatable)).toEqual(expected);
    });
  });

  describe('who asks again', () => {
    const because = (reason: Undelivered['reason'], fields: Partial<Undelivered> = {}) =>
      ({ reason, problem: 'x', ...fields }) as const;
    const client = { by: 'client', hasCredentials: false } as const;
    const withCredentials = { by: 'client', hasCredentials: true } as const;
    const operator = { by: 'operator' } as const;
    const kept = { answer: {} as Answer };

    test.each([
      ['unreachable', because('unreachable'), client, once, true],
      ['refused', because('refused'), client, once, true],
      ['unknown, and it was not told', because('outcome-unknown'), client, once, false],
      ['unknown, and it was told', because('outcome-unknown', { clientKnows: true }), client, once, true],
      ['unknown, but repeatable', because('outcome-unknown'), client, repeatable, true],
      ['unknown, by the operator', because('outcome-unknown'), operator, once, true],
      ['challenged, without credentials', because('unauthorized', kept), client, repeatable, false],
      ['challenged, with credentials', because('unauthorized', kept), withCredentials, once, true],
      ['challenged, and what was said is lost', because('unauthorized'), client, once, true],
      ['quarantined', because('quarantined'), withCredentials, repeatable, false],
      ['quarantined, by the operator', because('quarantined'), operator, once, true],
    ])('%s: %j', (_name, why, asker, policy, expected) => {
      expect(mayRetry(why, asker, policy)).toBe(expected);
    });
  });

  test.each([
    [undefined, 1],
    [attempt({ number: 1 }), 1],
    [attempt({ number: 20 }), 30],
    [attempt({ number: 20, notBefore: 1_000_100 }), 30],
    [attempt({ number: 20, notBefore: 1_040_100 }), 41],
  ])('Retry-After is the next delay in whole seconds, at least one, and not before the origin’s', (newest, seconds) => {
    const patient = { ...rules, firstDelayMs: 500, longestDelayMs: 30_000 };
    expect(retryAfterSeconds(newest, patient, 1_000_000)).toBe(seconds);
  });

  test('a delay of 30 s by a clock with fractions is 30, not 31', () => {
    const now = 2769.2999999999997;
    expect(now + 30_000 - now).toBeGreaterThan(30_000);
    expect(secondsUntil(now + 30_000, now)).toBe(30);
  });
});

describe('Retry-After', () => {
  const NOW = Date.UTC(2026, 10, 22, 12);
  const DAY = 86_400_000;

  test.each([
    ['0', 0],
    ['120', 120_000],
    [' 7 ', 7000],
    ['Mon, 23 Nov 2026 12:00:00 GMT', DAY],
    ['Monday, 23-Nov-26 12:00:00 GMT', DAY],
    ['Mon Nov 23 12:00:00 2026', DAY],
    ['Sun, 22 Nov 2026 11:00:00 GMT', 0],
    [undefined, undefined],
    ['', undefined],
    ['soon', undefined],
    ['-1', undefined],
    ['1.5', undefined],
    ['120, 60', undefined],
    ['99999999999', undefined],
    ['Mon, 99 Nov 2026 12:00:00 GMT', undefined],
  ])('Retry-After: %s', (value, expected) => {
    expect(retryAfterMs(value === undefined ? [] : [['Retry-After', value]], NOW)).toBe(expected);
  });

  const LATER = 'Sun, 22 Nov 2026 15:00:00 GMT';

  // Two clocks: a date of the origin's is measured by the origin's.
  test.each([
    ['Sun, 22 Nov 2026 14:59:50 GMT', 10_000],
    ['Sun, 22 Nov 2026 15:00:00 GMT', 0],
    ['Sun, 22 Nov 2026 15:00:09 GMT', 0],
    ['Sunday, 22-Nov-26 14:59:50 GMT', 10_000],
    ['Sun Nov 22 14:59:50 2026', 10_000],
    ['Sat, 21 Nov 2026 15:00:00 GMT', DAY],
    ['Mon, 99 Nov 2026 12:00:00 GMT', 3 * 3_600_000],
    ['now', 3 * 3_600_000],
  ])('a Retry-After with a date counts from the Date %s', (date, expected) => {
    const headers = [['date', date] as const, ['Retry-After', LATER] as const];
    expect(retryAfterMs(headers, NOW)).toBe(expected);
    expect(
      retryAfterMs(
        [
          ['Date', date],
          ['Retry-After', '7'],
        ],
        NOW,
      ),
    ).toBe(7000);
  });
});

describe('the age of a budget', () => {
  /** Clocks that move on with every look at them. */
  function budget(nowMs: number): RetryBudget {
    let monotonicMs = 0;
    return new RetryBudget({ clock: () => nowMs, monotonic: () => (monotonicMs += 0.6) });
  }

  test.each([
    ['a new one begins now', 5_000, undefined, 5_000],
    ['a recorded one keeps its beginning exactly', 5_000, 3_999, 3_999],
    ['one from the future begins now', 5_000, 6_000, 5_000],
  ])('%s', (_what, now, recorded, since) => {
    expect(budget(now).begin(1, recorded)).toEqual({ budgetFrom: 1, budgetSince: since });
  });
});

describe('claims', () => {
  test('asks nothing any more once it is released, also when the store comes back within a renewal', async () => {
    let asked = 0;
    let isStoreUnavailable = true;
    const renewClaim = (): Promise<boolean> => {
      asked++;
      return isStoreUnavailable
        ? Promise.reject(new Fault('STORE_UNAVAILABLE', 'it is away', true))
        : Promise.resolve(true);
    };
    const withRetry = <T>(step: () => Promise<T> | T, { signal }: { signal: AbortSignal }): Promise<T> =>
      retryWhileUnavailable(step, { signal });
    const deps = {
      store: { withRetry, direct: { renewClaim } } as unknown as ConstructorParameters<
        typeof DeliveryClaim
      >[1]['store'],
      worker: 'w',
      clock: Date.now,
      monotonic: () => performance.now(),
      log: silentLog(),
      claimMs: 30,
      halted: new AbortController().signal,
    };
    const claim = new DeliveryClaim('id', deps, performance.now());
    await until(() => asked > 0, 'a renewal');
    isStoreUnavailable = false;
    const before = asked;
    await claim.release();
    expect(asked).toBe(before);
    expect(claim.signal.aborted).toBe(false);
  });
});

describe('kept answers', () => {
  function lostUpload(): Upload {
    return {
      ...newUpload({ id: newId() }),
      phase: 'answered',
      offset: 0,
      attempts: [],
      attemptCount: 0,
      answer: answer(2),
    };
  }

  test('a lost answer is told of once, and what remembers that does not grow for ever', async () => {
    const known = lostUpload();
    const losses: string[] = [];
    const metrics = Object.assign(new Metrics(), { bytesLost: (what: string) => losses.push(what) });
    const reportedLosses = new Set<string>();
    const store = { get: () => Promise.resolve(known), answerBody: () => Promise.resolve(undefined) };
    const deps = {
      store,
      spool: {
        read: () => {
          throw new Error('nothing is in the spool');
        },
      },
      secrets: testSecrets(),
      log: silentLog(),
      metrics,
      reportedLosses,
    };
    const here = new AbortController().signal;
    expect([await keptAnswer(known, deps, here), await keptAnswer(known, deps, here)]).toEqual([undefined, undefined]);
    expect(losses).toEqual(['answer']);
    for (let count = 0; count < 10_050; count++) await keptAnswer(lostUpload(), deps, here);
    expect(reportedLosses.size).toBe(10_000);
    expect(reportedLosses.has(known.id)).toBe(false);
  });
});
