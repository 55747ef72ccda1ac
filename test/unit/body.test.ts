import { PassThrough } from 'node:stream';
import { describe, expect, jest, test } from '@jest/globals';
import { Body, type BodyOptions } from '../../src/uploads/request-body.js';

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
