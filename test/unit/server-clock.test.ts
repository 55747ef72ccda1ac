import { describe, expect, test } from '@jest/globals';
import { ServerClock } from '../../src/store/redis/health.js';

const SECOND = 1000;
const DAY = 86_400 * SECOND;
const NOON = 1_700_000_000_000;

/** A node and a Redis whose clocks are set while time passes, and a node that asks every second. */
class Clocks {
  ourStep = 0;
  theirStep = 0;
  private passed = 0;
  readonly clock = new ServerClock(() => this.ours, { monotonic: () => this.passed, settleMs: DAY });

  get ours(): number {
    return NOON + this.passed + this.ourStep;
  }

  get theirs(): number {
    return NOON + this.passed + this.theirStep;
  }

  pass(ms: number): void {
    this.passed += ms;
    this.clock.observe(this.theirs, this.ours);
  }
}

const STEPS = [20 * SECOND, -20 * SECOND, DAY, -DAY, 400 * DAY, -400 * DAY];

describe.each(STEPS)('a clock that is set by %s ms', (step) => {
  function open(): Clocks {
    const clocks = new Clocks();
    clocks.pass(SECOND);
    return clocks;
  }

  test('on the machine of Redis ends no upload early', () => {
    const clocks = open();
    const { clock } = clocks;
    const endsAt = clock.toServerExpiry(clocks.ours + DAY);
    clocks.theirStep = step;
    clocks.pass(SECOND);
    expect(clock.toLocalExpiry(String(endsAt))).toBeGreaterThanOrEqual(clocks.ours + DAY - SECOND);
    expect(Number(endsAt)).toBeGreaterThan(Number(clock.toServerCutoff(clocks.ours + DAY - 2 * SECOND)));
    // Other nodes may judge it by the new time.
    expect(clock.toServerTime(clocks.ours)).toBe(clocks.theirs);
  });

  test('on the machine of Redis ends no upload early that begins while it is wrong, and ends after it was put right', () => {
    const clocks = open();
    const { clock } = clocks;
    clocks.theirStep = step;
    clocks.pass(SECOND);
    const endsAt = String(clock.toServerExpiry(clocks.ours + DAY));
    // A node that has not heard of the step yet.
    expect(Number(endsAt)).toBeGreaterThanOrEqual(clocks.ours + DAY);
    clocks.theirStep = 0;
    clocks.pass(SECOND);
    expect(clock.toLocalExpiry(endsAt)).toBeGreaterThanOrEqual(clocks.ours + DAY - SECOND);
  });

  test('is believed when everything from before has had its whole time', () => {
    const clocks = open();
    clocks.theirStep = step;
    clocks.pass(SECOND);
    clocks.pass(DAY);
    expect(clocks.clock.toServerCutoff(clocks.ours)).toBe(clocks.theirs);
    expect(clocks.clock.toLocalExpiry(String(clocks.theirs))).toBe(clocks.ours);
  });

  test('on this machine ends no upload early: by the time that is never set forward', () => {
    const clocks = open();
    const { clock } = clocks;
    const endsAt = clock.toServerExpiry(clocks.ours + DAY);
    clocks.ourStep = step;
    clocks.pass(SECOND);
    const expiryNow = Math.min(clocks.ours, clocks.ours - clocks.ourStep);
    expect(clock.toLocalExpiry(String(endsAt))).toBeGreaterThanOrEqual(expiryNow + DAY - SECOND);
    expect(Number(endsAt)).toBeGreaterThan(Number(clock.toServerCutoff(expiryNow + DAY - 2 * SECOND)));
  });
});

test('an end that never comes stays one', () => {
  const { clock } = new Clocks();
  expect([clock.toServerTime(Infinity), clock.toServerExpiry(Infinity)]).toEqual(['+inf', '+inf']);
  expect([clock.toServerCutoff(Infinity), clock.toLocalExpiry('+inf')]).toEqual(['+inf', Infinity]);
});
