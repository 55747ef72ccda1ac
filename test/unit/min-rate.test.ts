import { expect, jest, test } from '@jest/globals';
import type { Exchange } from '../../src/server/exchange.js';
import { RateWindow, RequestRates } from '../../src/server/slow-clients.js';

const rate = { bytesPerSecond: 100, windowMs: 60_000 };

/** At which look, of looks of 10 s each, it is called too slow; 0 when never. */
function slowAt(bytes: readonly number[], share = 1): number {
  const window = new RateWindow(rate);
  return bytes.findIndex((moved) => window.isTooSlow(10_000, moved, share)) + 1;
}

test.each([
  ['nothing at all, after one window', Array<number>(10).fill(0), 6],
  ['a drip', Array<number>(10).fill(10), 6],
  ['just enough', Array<number>(100).fill(1000), 0],
  ['a little too little', Array<number>(100).fill(999), 6],
  ['a fast start that stops: its own window later', [1e9, ...Array<number>(10).fill(0)], 7],
  ['a pause shorter than the window', [6000, 0, 0, 0, 0, 0, 6000, 0, 0, 0, 0, 0, 6000], 0],
  ['a pause as long as the window', [6000, 0, 0, 0, 0, 0, 0], 7],
  ['no more than five looks', [0, 0, 0, 0, 0], 0],
])('%s', (_name, bytes, at) => {
  expect(slowAt(bytes)).toBe(at);
});

test('what several share has to be enough for all of them', () => {
  expect(slowAt(Array<number>(10).fill(5000), 5)).toBe(0);
  expect(slowAt(Array<number>(10).fill(4999), 5)).toBe(6);
});

// `behind`: the origin or the disk; the client could not send if it wanted to.
test.each([
  ['never sends', () => true, () => 0, true],
  ['drips', () => true, (look: number) => look * 100, true],
  ['sends enough', () => true, (look: number) => look * 1000, false],
  ['sends nothing while somebody is behind', () => false, () => 0, false],
  ['is let go on now and then, and sends nothing', (look: number) => look % 4 < 3, () => 0, true],
  ['is let go on now and then, and sends enough', (look: number) => look % 4 < 3, (look: number) => look * 1000, false],
])('a client that %s', (_name, isAwaited, bytesRead, isSlow) => {
  jest.useFakeTimers();
  try {
    let look = 0;
    const socket = { destroyed: false, bytesRead: 0 };
    const rates = new RequestRates({ bytesPerSecond: 100, windowMs: 60_000 });
    const onSlow = jest.fn();
    const stop = rates.watch({ req: { socket } } as unknown as Exchange, { isAwaited: () => isAwaited(look), onSlow });
    while (look < 100) {
      look++;
      socket.bytesRead = bytesRead(look);
      jest.advanceTimersByTime(7500);
    }
    expect(onSlow.mock.calls.length > 0).toBe(isSlow);
    stop();
    expect(jest.getTimerCount()).toBe(0);
  } finally {
    jest.useRealTimers();
  }
});
