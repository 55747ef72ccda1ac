import { PassThrough, Readable } from 'node:stream';
import { describe, expect, jest, test } from '@jest/globals';
import type { Exchange } from '../../src/server/exchange.js';
import { RateWindow, RequestRates } from '../../src/server/slow-clients.js';
import { combineSmallPieces } from '../../src/streams/small-pieces.js';
import { Body, type BodyOptions } from '../../src/uploads/request-body.js';

describe('request bodies', () => {
  function bodyOf(options: Partial<BodyOptions> = {}): { body: Body; stream: PassThrough; wanted: () => number } {
    const stream = new PassThrough({ highWaterMark: 64 * 1024 * 1024 });
    let wanted = 0;
    const body = new Body(stream, { idleMs: 10_000, onFirstRead: () => (wanted += 1), ...options });
    return { body, stream, wanted: () => wanted };
  }

  async function readAll(body: Body): Promise<string> {
    const parts: Buffer[] = [];
    for (let batch = await body.next(); batch; batch = await body.next()) parts.push(...batch);
    return Buffer.concat(parts).toString();
  }

  describe('a body', () => {
    test('gives everything that arrived in one turn as one batch', async () => {
      const { body, stream } = bodyOf();
      stream.write('a');
      stream.write('b');
      const first = await body.next();
      expect(first?.map(String)).toEqual(['a', 'b']);
      stream.end('c');
      expect(await readAll(body)).toBe('c');
      expect(body.ending).toBe('clean');
    });

    test('asks for nothing before it is read, and says when it is wanted exactly once', async () => {
      const { body, stream, wanted } = bodyOf();
      stream.write('a');
      expect(wanted()).toBe(0);
      await body.next();
      stream.end('b');
      await readAll(body);
      expect(wanted()).toBe(1);
    });

    test('is cut, not clean, when it ends short of its declared length', async () => {
      const { body, stream } = bodyOf({ declaredLength: 3 });
      stream.end('ab');
      expect(await readAll(body)).toBe('ab');
      expect(body.ending).toBe('client-left');
    });

    test('is cut when the stream was reset although it says it ended', async () => {
      const { body, stream } = bodyOf({ wasReset: () => true });
      stream.end('ab');
      await readAll(body);
      expect(body.ending).toBe('client-left');
    });

    test('gives what arrived before the stream was destroyed, then ends as cut', async () => {
      const { body, stream } = bodyOf();
      stream.write('ab');
      expect(String((await body.next())![0])).toBe('ab');
      stream.destroy(new Error('connection lost'));
      expect(await body.next()).toBeUndefined();
      expect(body.ending).toBe('client-left');
    });

    test('that was destroyed before anybody read it is cut and is not wanted', async () => {
      const { body, stream, wanted } = bodyOf();
      stream.destroy();
      expect(await body.next()).toBeUndefined();
      expect(body.ending).toBe('client-left');
      expect(wanted()).toBe(0);
    });

    test('stops when told to, after giving out what had arrived', async () => {
      const { body, stream } = bodyOf();
      stream.write('ab');
      const waiting = body.next();
      expect((await waiting)?.map(String)).toEqual(['ab']);
      const last = body.next();
      body.stop();
      expect(await last).toBeUndefined();
      expect(body.ending).toBe('stopped');
    });

    test('ends as idle when nothing arrives for the idle time', async () => {
      const { body, stream } = bodyOf({ idleMs: 5 });
      stream.write('ab');
      expect(await readAll(body)).toBe('ab');
      expect(body.ending).toBe('idle');
    });

    test('does not call a client idle whose connection we kept from being read, but once it is read again', async () => {
      jest.useFakeTimers({ doNotFake: ['setImmediate', 'nextTick', 'queueMicrotask'] });
      try {
        let heldAgo = 0;
        let watched = { isAwaited: (): boolean => true };
        const watch = (body: typeof watched): (() => void) => ((watched = body), () => undefined);
        const { body, stream } = bodyOf({ idleMs: 5000, sinceHeldBackMs: () => heldAgo, watch });
        stream.write('a');
        await body.next();
        jest.advanceTimersByTime(60_000);
        expect([body.ending, watched.isAwaited()]).toEqual([undefined, false]);
        // Released a moment ago: it has its time from then on.
        heldAgo = 100;
        jest.advanceTimersByTime(5000);
        expect([body.ending, watched.isAwaited()]).toEqual([undefined, true]);
        heldAgo = 5100;
        jest.advanceTimersByTime(5000);
        expect(body.ending).toBe('idle');
      } finally {
        jest.useRealTimers();
      }
    });

    test('does not call a client idle that waits for us', async () => {
      jest.useFakeTimers({ doNotFake: ['setImmediate', 'nextTick', 'queueMicrotask'] });
      try {
        const { body, stream } = bodyOf({ idleMs: 5000 });
        const more = Buffer.alloc(5 * 1024 * 1024);
        stream.write('a');
        await body.next();
        stream.write(more);
        expect(stream.isPaused()).toBe(true);
        jest.advanceTimersByTime(60_000);
        expect(body.ending).toBeUndefined();
        await body.next();
        expect(stream.isPaused()).toBe(false);
        jest.advanceTimersByTime(60_000);
        expect(body.ending).toBe('idle');
      } finally {
        jest.useRealTimers();
      }
    });
  });
});

describe('small pieces', () => {
  function source(): Readable {
    return combineSmallPieces(new Readable({ read: () => undefined }));
  }

  /** A byte that tells its place. */
  function byte(at: number): Buffer {
    return Buffer.from([at % 251]);
  }

  function turn(): Promise<void> {
    return new Promise((resolve) => setImmediate(resolve));
  }

  test('the first small piece comes at once, and those of a turn after it come as one', async () => {
    const stream = source();
    const pieces: Buffer[] = [];
    stream.on('data', (piece: Buffer) => pieces.push(piece));
    await turn();
    for (let at = 0; at < 1000; at++) stream.push(byte(at));
    await turn();
    await turn();
    expect(pieces.map(({ length }) => length)).toEqual([1, 999]);
    expect(Buffer.concat(pieces)).toEqual(Buffer.from(Array.from({ length: 1000 }, (_, at) => at % 251)));
  });

  test('what nobody reads is kept in few pieces, however many turns it takes, and in order beside large pieces', async () => {
    const kept: Buffer[] = [];
    const plain = new Readable({ read: () => undefined });
    const keep = plain.push.bind(plain);
    plain.push = (piece: unknown, encoding?: BufferEncoding) => {
      if (Buffer.isBuffer(piece)) kept.push(piece);
      return keep(piece, encoding);
    };
    const stream = combineSmallPieces(plain);
    const expected: Buffer[] = [];
    const push = (piece: Buffer): void => {
      expected.push(piece);
      stream.push(piece);
    };
    for (let at = 0; at < 3000; at++) {
      push(byte(at));
      if (at % 100 === 0) await turn();
    }
    push(Buffer.alloc(20_000, 7));
    for (let at = 0; at < 10; at++) push(byte(at));
    stream.push(null);
    expect(Buffer.concat((await stream.toArray()) as Buffer[])).toEqual(Buffer.concat(expected));
    // Each costs some hundred bytes, and what it was cut from: eight times the content are the most there may be.
    const held = new Set(kept.map(({ buffer }) => buffer));
    const bytes = [...held].reduce((sum, { byteLength }) => sum + byteLength, 0) + 500 * kept.length;
    // Small ones are cut from a pool, which is larger in newer versions of Node, or from the end of one and the next.
    expect(bytes).toBeLessThan(8 * 3000 + 20_000 + 2 * Buffer.poolSize);
    expect(kept.length).toBeLessThanOrEqual(5);
  });

  test('bytes before a cut come before it', async () => {
    const stream = source();
    const pieces: Buffer[] = [];
    stream.on('data', (piece: Buffer) => pieces.push(piece));
    stream.on('error', () => undefined);
    await turn();
    stream.push(byte(1));
    stream.push(byte(2));
    stream.destroy(new Error('cut'));
    expect(Buffer.concat(pieces)).toEqual(Buffer.from([1, 2]));
  });

  test('a full stream says so, also while its bytes wait to be gathered', () => {
    const stream = combineSmallPieces(new Readable({ read: () => undefined, highWaterMark: 4 }));
    expect([1, 2, 3, 4].map((at) => stream.push(byte(at)))).toEqual([true, true, true, false]);
  });

  test.each([
    ['that goes on', false],
    ['that is whole', true],
  ])('what a stream %s has got before is made one piece, and told of', async (_, isComplete) => {
    const stream = new Readable({ read: () => undefined });
    for (let at = 0; at < 1000; at++) stream.push(byte(at));
    if (isComplete) stream.push(null);
    let told = 0;
    combineSmallPieces(stream, () => told++);
    expect([told, stream.readableLength]).toEqual([1000, 1000]);
    if (!isComplete) for (let at = 1000; at < 1500; at++) stream.push(byte(at));
    if (!isComplete) stream.push(null);
    const pieces = (await stream.toArray()) as Buffer[];
    expect(pieces.length).toBeLessThanOrEqual(2);
    expect(Buffer.concat(pieces)).toEqual(
      Buffer.from(Array.from({ length: isComplete ? 1000 : 1500 }, (__, at) => at % 251)),
    );
  });

  test('large pieces that came before are left as they are', async () => {
    const stream = new Readable({ read: () => undefined });
    for (let at = 0; at < 3; at++) stream.push(Buffer.alloc(10_000, at));
    stream.push(null);
    let told = 0;
    combineSmallPieces(stream, () => told++);
    const sizes: number[] = [];
    stream.on('data', ({ length }: Buffer) => sizes.push(length));
    await new Promise((resolve) => stream.once('end', resolve));
    expect([sizes, told]).toEqual([[10_000, 10_000, 10_000], 0]);
  });
});

describe('minimum rates', () => {
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
    [
      'is let go on now and then, and sends enough',
      (look: number) => look % 4 < 3,
      (look: number) => look * 1000,
      false,
    ],
  ])('a client that %s', (_name, isAwaited, bytesRead, isSlow) => {
    jest.useFakeTimers();
    try {
      let look = 0;
      const socket = { destroyed: false, bytesRead: 0 };
      const rates = new RequestRates({ bytesPerSecond: 100, windowMs: 60_000 });
      const onSlow = jest.fn();
      const stop = rates.watch({ req: { socket } } as unknown as Exchange, {
        isAwaited: () => isAwaited(look),
        onSlow,
      });
      while (look < 100) {
        look++;
        socket.bytesRead = bytesRead(look);
        jest.advanceTimersByTime(7500);
      }
      expect(onSlow.mock.calls.length > 0).toBe(isSlow);
      stop();
      // One timer serves all bodies and ends at its next tick without any.
      jest.advanceTimersByTime(7500);
      expect(jest.getTimerCount()).toBe(0);
    } finally {
      jest.useRealTimers();
    }
  });
});
