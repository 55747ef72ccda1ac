import { readdirSync, readFileSync } from 'node:fs';
import { gzipSync } from 'node:zlib';
import { afterEach, beforeEach, describe, expect, jest, test } from '@jest/globals';
import { type BuildOptions, buildSync } from 'esbuild';
import { AppendSize, limitIn } from '../../src/client/append-size.js';
import { browser } from '../../src/client/browser.js';
import { resumableFetch } from '../../src/client/resumable-fetch.js';
import type { Transport } from '../../src/client/transport.js';
import { upload } from '../../src/client/upload.js';
import { type Step, verdictOf } from '../../src/client/verdict.js';
import { backoffMs, retryAfterMs, retryWithBackoff } from '../../src/client/wait.js';

const MIB = 1024 * 1024;

describe('the file that web pages load', () => {
  const options = JSON.parse(readFileSync('src/client/bundle.json', 'utf8')) as BuildOptions & { outfile: string };

  test('has at most 3 kB with gzip, and exports one function', () => {
    const { outputFiles } = buildSync({ ...options, write: false });
    const text = outputFiles[0]!.text;
    expect(gzipSync(text).length).toBeLessThanOrEqual(3072);
    expect(/export\{\w+ as resumableFetch\};/.test(text)).toBe(true);
    expect(/\b(?:import|require)\b/.test(text)).toBe(false);
  });

  test('is what the package exports, with its types', () => {
    const { exports } = JSON.parse(readFileSync('package.json', 'utf8')) as {
      exports: Record<string, { types: string; default: string }>;
    };
    expect(exports['./client']).toEqual({
      types: './dist/client/resumable-fetch.d.ts',
      default: `./${options.outfile}`,
    });
  });

  test('uses nothing of Node', () => {
    const sources = readdirSync('src/client').filter((name) => name.endsWith('.ts'));
    expect(sources.length).toBeGreaterThan(5);
    expect(sources.filter((name) => readFileSync(`src/client/${name}`, 'utf8').includes("'node:"))).toEqual([]);
  });
});

describe('the meaning of a response', () => {
  const location = { location: '/u/1' };
  const more = { 'upload-complete': '?0' };
  const offset = { 'upload-offset': '5' };

  test.each<[Step, number, Record<string, string>, string]>([
    ['create', 201, { ...more, ...location }, 'accepted'],
    ['create', 201, location, 'not-resumable'],
    ['create', 200, {}, 'not-resumable'],
    ['create', 413, more, 'answer'],
    ['create', 409, { ...more, ...offset }, 'answer'],
    ['create', 404, {}, 'answer'],
    ['create', 429, more, 'retry'],
    ['create', 507, more, 'retry'],
    ['create', 501, more, 'answer'],
    ['create', 413, { 'upload-complete': '?1' }, 'answer'],
    ['ask', 204, { ...more, ...offset }, 'accepted'],
    ['ask', 204, { 'upload-complete': '?1', ...offset }, 'accepted'],
    ['ask', 204, offset, 'accepted'],
    ['ask', 200, {}, 'retry'],
    ['ask', 404, more, 'gone'],
    ['ask', 410, more, 'gone'],
    ['ask', 401, {}, 'answer'],
    ['ask', 413, {}, 'answer'],
    ['ask', 502, {}, 'retry'],
    ['append', 204, { ...more, ...offset }, 'accepted'],
    ['append', 200, {}, 'retry'],
    ['append', 204, offset, 'retry'],
    ['append', 204, more, 'retry'],
    ['append', 409, { ...more, ...offset }, 'retry'],
    ['append', 409, {}, 'answer'],
    ['append', 404, more, 'gone'],
    ['append', 404, { 'upload-complete': '?1' }, 'answer'],
    ['append', 408, {}, 'retry'],
    ['append', 423, {}, 'retry'],
    ['append', 413, {}, 'too-large'],
    ['append', 413, { 'upload-complete': '?1;by=origin' }, 'answer'],
    ['append', 422, {}, 'answer'],
    ['end', 201, { 'upload-complete': '?1' }, 'answer'],
    ['end', 500, { 'upload-complete': '?1' }, 'answer'],
    ['end', 204, { ...more, ...offset }, 'retry'],
    ['end', 200, {}, 'retry'],
    ['end', 401, more, 'answer'],
    ['end', 413, more, 'too-large'],
    ['end', 503, more, 'retry'],
    ['end', 410, more, 'gone'],
  ])('%s: %d with %j is "%s"', (step, status, headers, verdict) => {
    expect(verdictOf(step, { status, headers: new Headers(headers) })).toBe(verdict);
  });
});

describe('the size of appends', () => {
  const newSize = (): AppendSize => new AppendSize({ first: 4 * MIB, largest: 64 * MIB });

  test('doubles while appends are quick, and stays below what hops usually take', () => {
    const size = newSize();
    const sizes = [size.bytes];
    for (let count = 0; count < 6; count++) {
      size.succeeded(100);
      sizes.push(size.bytes);
    }
    expect(sizes.map((bytes) => bytes / MIB)).toEqual([4, 8, 16, 32, 64, 64, 64]);
  });

  test('stays while appends take their time, and is halved when they are slow', () => {
    const size = newSize();
    size.succeeded(10_000);
    expect(size.bytes).toBe(4 * MIB);
    size.succeeded(31_000);
    expect(size.bytes).toBe(2 * MIB);
  });

  test('is halved by a cut, but not below 64 KiB', () => {
    const size = newSize();
    size.failed(4 * MIB);
    expect(size.bytes).toBe(2 * MIB);
    for (let count = 0; count < 10; count++) size.failed(size.bytes);
    expect(size.bytes).toBe(64 * 1024);
    expect(size.tooLarge(64 * 1024)).toBe(false);
  });

  test('without a bound falls back to one that hops take', () => {
    const size = new AppendSize({ first: Infinity, largest: Infinity });
    expect(size.bytes).toBe(Infinity);
    size.failed(10_000 * MIB);
    expect(size.bytes).toBe(32 * MIB);
    size.succeeded(10);
    size.succeeded(10);
    expect(size.bytes).toBe(64 * MIB);
  });

  test('never reaches again what a hop refused', () => {
    const size = newSize();
    expect(size.tooLarge(4 * MIB)).toBe(true);
    size.succeeded(10);
    size.succeeded(10);
    expect(size.bytes).toBe(2 * MIB);
  });

  test('obeys the limits of the server', () => {
    const size = newSize();
    size.obey('max-size=100, min-append-size=5242880, max-append-size=6000000, max-age=3');
    expect(size.bytes).toBe(5 * MIB);
    size.succeeded(10);
    expect(size.bytes).toBe(6_000_000);
    size.obey('max-append-size=3');
    expect(size.bytes).toBe(3);
  });

  test.each([
    ['max-size=7', 7],
    ['max-append-size=5, max-size=7', 7],
    ['max-append-size=5', undefined],
    ['', undefined],
    [null, undefined],
  ])('finds max-size in %j: %j', (limits, found) => {
    expect(limitIn(limits, 'max-size')).toBe(found);
  });
});

describe('waiting', () => {
  test.each([
    [1, 500],
    [2, 1000],
    [6, 16_000],
    [7, 30_000],
    [12, 30_000],
  ])('after %d failures takes between half of %d ms and all of it', (failures, longestMs) => {
    for (let count = 0; count < 50; count++) {
      expect(backoffMs(failures)).toBeGreaterThanOrEqual(longestMs / 2);
      expect(backoffMs(failures)).toBeLessThan(longestMs);
    }
  });

  test('ends with the twelfth failure', () => {
    expect(retryWithBackoff(12, undefined)).toBeGreaterThan(0);
    expect(retryWithBackoff(13, undefined)).toBeUndefined();
  });

  test.each([
    ['7', 7000],
    ['soon', 0],
    ['999999999', 3_600_000],
    [undefined, 0],
  ])('Retry-After %j means %d ms', (value, delayMs) => {
    expect(retryAfterMs(new Headers(value === undefined ? {} : { 'Retry-After': value }))).toBe(delayMs);
  });

  describe('with a clock', () => {
    beforeEach(() => void jest.useFakeTimers());
    afterEach(() => void jest.useRealTimers());

    test('a date in Retry-After is waited for, at most an hour', () => {
      jest.setSystemTime(new Date('2026-11-30T12:00:00Z'));
      const headers = new Headers({ 'Retry-After': 'Mon, 30 Nov 2026 12:00:30 GMT' });
      expect(retryAfterMs(headers)).toBe(30_000);
      jest.setSystemTime(new Date('2026-11-29T12:00:00Z'));
      expect(retryAfterMs(headers)).toBe(3_600_000);
    });

    test('Retry-After is obeyed although the delay is over', async () => {
      const { calls, transport } = recording(
        () => new Response(null, { status: 503, headers: { 'Retry-After': '60' } }),
      );
      const pause = new AbortController();
      const sent = upload({ ...task(transport), retry: () => 10, signal: pause.signal });
      await jest.advanceTimersByTimeAsync(59_999);
      expect(calls).toHaveLength(1);
      await jest.advanceTimersByTimeAsync(1);
      expect(calls).toHaveLength(2);
      pause.abort(new Error('enough'));
      await expect(sent).rejects.toThrow('enough');
    });

    test('an append whose bytes no longer move is given up after half a minute', async () => {
      const { calls, transport } = recording(({ method, signal, onProgress }) => {
        if (method === 'POST') return created();
        if (method === 'HEAD') return new Response(null, { status: 204, headers: { 'Upload-Offset': '2' } });
        onProgress(2);
        return new Promise((_, reject) => signal.addEventListener('abort', () => reject(new Error('stalled'))));
      });
      const pause = new AbortController();
      const causes: unknown[] = [];
      const retry = (_: number, cause: unknown): number => causes.push(cause);
      const sent = upload({ ...task(transport), retry, signal: pause.signal });
      await jest.advanceTimersByTimeAsync(29_999);
      expect(calls.map(({ method }) => method)).toEqual(['POST', 'PATCH']);
      await jest.advanceTimersByTimeAsync(10);
      expect(calls.map(({ method }) => method)).toEqual(['POST', 'PATCH', 'HEAD', 'PATCH']);
      expect(calls[3]!.headers.get('upload-offset')).toBe('2');
      expect(causes).toEqual([new Error('stalled')]);
      pause.abort();
      await expect(sent).rejects.toThrow();
    });
  });
});

describe('requests', () => {
  test('carry the fields of the draft and of the caller, and those of the content only once', async () => {
    const { calls, transport } = recording(({ method, headers }) => {
      if (method === 'POST') return created();
      const end = headers.get('upload-complete') === '?1';
      const fields: Record<string, string> = end
        ? { 'Upload-Complete': '?1' }
        : { 'Upload-Complete': '?0', 'Upload-Offset': '2' };
      return new Response(null, { status: 204, headers: fields });
    });
    const headers = new Headers({ Authorization: 'me', 'Content-Type': 'a/b', 'Content-Encoding': 'gzip' });
    await upload({ ...task(transport), headers, sizes: { first: 2, largest: 2 } });
    const common = { authorization: 'me', 'upload-draft-interop-version': '10' };
    const append = { ...common, 'content-type': 'application/partial-upload' };
    expect(calls.map((call) => Object.fromEntries(call.headers))).toEqual([
      { ...common, 'content-type': 'a/b', 'content-encoding': 'gzip', 'upload-complete': '?0', 'upload-length': '3' },
      { ...append, 'upload-offset': '0', 'upload-complete': '?0' },
      { ...append, 'upload-offset': '2', 'upload-complete': '?1' },
    ]);
    expect(calls.map(({ url }) => url)).toEqual(['http://h/files/', 'http://h/u/1', 'http://h/u/1']);
  });

  test('a 409 is followed by an append at its offset, without asking', async () => {
    const { calls, transport } = recording(({ method, headers }) => {
      if (method === 'POST') return created();
      const isRight = headers.get('upload-offset') === '2';
      const fields: Record<string, string> = isRight
        ? { 'Upload-Complete': '?1' }
        : { 'Upload-Complete': '?0', 'Upload-Offset': '2' };
      return new Response(null, { status: isRight ? 200 : 409, headers: fields });
    });
    expect((await upload({ ...task(transport), retry: () => 0 })).status).toBe(200);
    expect(calls.map(({ method }) => method)).toEqual(['POST', 'PATCH', 'PATCH']);
  });
});

describe('in a browser', () => {
  const global = browser as { -readonly [K in keyof typeof browser]: unknown };
  afterEach(() => {
    for (const name of [
      'XMLHttpRequest',
      'localStorage',
      'location',
      'addEventListener',
      'removeEventListener',
    ] as const)
      Reflect.deleteProperty(global, name);
    jest.restoreAllMocks();
  });

  /** The part of XMLHttpRequest that the client uses, with the answer of an origin. */
  class FakeXhr {
    static readonly sent: FakeXhr[] = [];
    readonly headers: Record<string, string> = {};
    readonly upload: { onprogress?: (event: { loaded: number }) => void } = {};
    status = 0;
    statusText = 'Created';
    response: unknown;
    responseType = '';
    withCredentials = false;
    line = '';
    onload?: () => void;
    onloadend?: () => void;
    open(method: string, url: string): void {
      this.line = `${method} ${url}`;
    }
    setRequestHeader(name: string, value: string): void {
      this.headers[name] = value;
    }
    getAllResponseHeaders(): string {
      return 'upload-complete: ?1\r\nx-note: a: b\r\n';
    }
    abort(): void {
      this.onloadend?.();
    }
    send(body: Blob): void {
      FakeXhr.sent.push(this);
      this.upload.onprogress?.({ loaded: body.size });
      this.status = 201;
      this.response = new Blob(['done']);
      this.onload?.();
      this.onloadend?.();
    }
  }

  test('appends go by XMLHttpRequest, with progress, and the URL waits in localStorage', async () => {
    const stored: string[] = [];
    const items = new Map<string, string>();
    Object.assign(global, {
      XMLHttpRequest: FakeXhr,
      location: { href: 'http://h/page.html' },
      localStorage: {
        getItem: (key: string) => items.get(key) ?? null,
        setItem: (key: string, value: string) => (items.set(key, value), stored.push(`${key} = ${value}`)),
        removeItem: (key: string) => items.delete(key),
      },
    });
    jest.spyOn(globalThis, 'fetch').mockResolvedValue(created());
    const body = new File(['abc'], 'a.txt', { lastModified: 5 });
    const loaded: number[] = [];
    const onProgress = (progress: { loaded: number }): number => loaded.push(progress.loaded);
    const response = await resumableFetch('/files/', { body, credentials: 'include' }, { onProgress });
    expect(response.status).toBe(201);
    expect(response.headers.get('x-note')).toBe('a: b');
    expect(await response.text()).toBe('done');
    const [xhr] = FakeXhr.sent;
    expect([xhr!.line, xhr!.withCredentials, xhr!.headers['upload-complete']]).toEqual([
      'PATCH http://h/u/1',
      true,
      '?1',
    ]);
    expect(loaded).toEqual([0, 0, 3]);
    expect(stored).toEqual([
      'rufh POST http://h/files/ 3 5 a.txt = ?0 http://h/u/1',
      'rufh POST http://h/files/ 3 5 a.txt = ?1 http://h/u/1',
    ]);
    expect(items.size).toBe(0);
  });

  test('a page that may not store anything can upload, but not after a reload', async () => {
    Object.assign(global, { XMLHttpRequest: FakeXhr });
    Object.defineProperty(globalThis, 'localStorage', {
      configurable: true,
      get: () => {
        throw new Error('SecurityError');
      },
    });
    jest.spyOn(globalThis, 'fetch').mockResolvedValue(created());
    const response = await resumableFetch('http://h/files/', { body: new File(['abc'], 'a.txt') });
    expect(response.status).toBe(201);
  });

  test('a lost network ends the attempt at once, and its return the delay', async () => {
    const network = new EventTarget();
    Object.assign(global, {
      addEventListener: network.addEventListener.bind(network),
      removeEventListener: network.removeEventListener.bind(network),
    });
    const { calls, transport } = recording(({ method, signal }) => {
      if (method === 'POST') return created();
      if (method === 'HEAD') return new Response(null, { status: 204, headers: { 'Upload-Offset': '0' } });
      if (calls.length > 3) return new Response(null, { status: 204, headers: { 'Upload-Complete': '?1' } });
      queueMicrotask(() => network.dispatchEvent(new Event('offline')));
      return new Promise((_, reject) =>
        signal.addEventListener('abort', () => {
          setTimeout(() => network.dispatchEvent(new Event('online')), 1);
          reject(new Error('offline'));
        }),
      );
    });
    // Nothing but the network's return ends an hour of waiting.
    expect((await upload({ ...task(transport), retry: () => 3_600_000 })).status).toBe(204);
    expect(calls.map(({ method }) => method)).toEqual(['POST', 'PATCH', 'HEAD', 'PATCH']);
  });
});

type Call = Parameters<Transport<Blob>>[0];

/** A transport that is answered by a script, and its calls. */
function recording(answer: (call: Call) => Response | Promise<Response>) {
  const calls: Call[] = [];
  const transport: Transport<Blob> = (call) => {
    calls.push(call);
    return Promise.resolve(answer(call));
  };
  return { calls, transport };
}

function created(): Response {
  return new Response(null, {
    status: 201,
    headers: { 'Upload-Complete': '?0', 'Upload-Offset': '0', Location: '/u/1' },
  });
}

function task(transport: Transport<Blob>) {
  return { url: 'http://h/files/', method: 'POST', headers: new Headers(), source: new Blob(['abc']), transport };
}
