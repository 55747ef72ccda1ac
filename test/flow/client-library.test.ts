import { afterAll, afterEach, beforeAll, describe, expect, test } from '@jest/globals';
import { type Progress, resumableFetch, type ResumableFetchOptions } from '../../src/client/resumable-fetch.js';
import { startLimitingHop } from '../support/limiting-hop.js';
import { CuttingProxy } from '../support/network.js';
import { randomBytes, sha256, until } from '../support/temporary.js';
import { startTestOrigin } from '../support/test-origin.js';
import { TestProxy } from '../support/test-proxy.js';

// Issue 13: the client library with its fetch transport, in Node, against a whole proxy and an unchanged origin.

const MIB = 1024 * 1024;

let proxy: TestProxy;
let limited: TestProxy;
beforeAll(async () => {
  proxy = await TestProxy.open({ config: 'delivery: { retry: { attempts: 1, first_delay: 100ms } }' });
  limited = await TestProxy.open({ config: 'limits: { max_append_size: 1MiB, max_size: 8MiB }' });
});
afterAll(async () => {
  await proxy.close();
  await limited.close();
});

const relays: CuttingProxy[] = [];
afterEach(async () => {
  await Promise.all(relays.splice(0).map((relay) => relay.stop()));
});

/** A network in front of a proxy. */
async function network(to = proxy): Promise<CuttingProxy> {
  const relay = await CuttingProxy.start(Number(new URL(to.app.url).port));
  relays.push(relay);
  return relay;
}

/** Cuts the network when so many more bytes have come through, and mends it when everything is cut. */
function cutAfter(relay: CuttingProxy, bytes: number): void {
  const end = relay.bytes + bytes;
  relay.onBytesThere = () => {
    if (relay.bytes < end) return;
    relay.onBytesThere = () => undefined;
    void relay.cut();
    void relay.restore();
  };
}

const retryAtOnce: ResumableFetchOptions = { retry: (failures) => (failures > 20 ? undefined : 10) };

class MemoryStore extends Map<string, string> {
  get url(): string {
    return [...this.values()][0]!.slice(3);
  }
}

let files = 0;
/** A new target with a new file. */
function upload(size: number): { readonly target: string; readonly file: File; readonly hash: string } {
  files += 1;
  const bytes = randomBytes(size, files);
  const file = new File([bytes], `film ${files}.mp4`, { type: 'video/mp4', lastModified: 1_700_000_000_000 + files });
  return { target: `/library/${files}`, file, hash: sha256(bytes) };
}

/** The origin got the content once, as an ordinary request. */
function expectOneRequest(to: TestProxy, target: string, expected: { hash: string; method?: string }): void {
  const requests = to.requestsFor(target);
  expect(requests.map(({ method, sha256: hash }) => ({ method, hash }))).toEqual([
    { method: expected.method ?? 'POST', hash: expected.hash },
  ]);
}

describe('an upload with resumableFetch', () => {
  test('becomes one request, and its answer an ordinary response', async () => {
    const { target, file, hash } = upload(10 * MIB);
    proxy.answer(target, { status: 201, headers: [['Location', '/films/7']], body: '{"id":7}' });
    const progress: Progress[] = [];
    const init = { method: 'PUT', headers: { Authorization: 'Bearer secret' }, body: file };
    const store = new MemoryStore();
    const response = await resumableFetch(proxy.base + target, init, { onProgress: (at) => progress.push(at), store });
    expect(response.status).toBe(201);
    expect(response.headers.get('location')).toBe('/films/7');
    expect(await response.json()).toEqual({ id: 7 });
    expectOneRequest(proxy, target, { hash, method: 'PUT' });
    const [request] = proxy.requestsFor(target);
    expect(request!.header('content-type')).toBe('video/mp4');
    expect(request!.header('content-length')).toBe(`${10 * MIB}`);
    expect(request!.header('authorization')).toBe('Bearer secret');
    expect(request!.header('upload-complete')).toBeUndefined();
    expect(progress.map(({ loaded }) => loaded)).toEqual([0, 4 * MIB]);
    expect(store.size).toBe(0);
  });

  test.each([
    ['a text', 'hello', 'text/plain;charset=UTF-8', 'hello'],
    ['pairs', new URLSearchParams({ a: '1' }), 'application/x-www-form-urlencoded;charset=UTF-8', 'a=1'],
    ['nothing', undefined, undefined, ''],
  ])('takes %s as the body, as fetch does', async (_, body, type, content) => {
    const { target } = upload(0);
    const response = await resumableFetch(proxy.base + target, { body });
    expect(await response.text()).toBe('ok');
    expectOneRequest(proxy, target, { hash: sha256(content) });
    expect(proxy.requestsFor(target)[0]!.header('content-type')).toBe(type);
  });

  test('takes a form, whose boundary reaches the origin', async () => {
    const { target, file } = upload(1000);
    const body = new FormData();
    body.append('photo', file);
    await resumableFetch(proxy.base + target, { body });
    const [request] = proxy.requestsFor(target);
    const boundary = /boundary=(.+)$/.exec(request!.header('content-type')!)![1]!;
    expect(request!.body.toString('latin1').startsWith(`--${boundary}\r\n`)).toBe(true);
    expect(request!.body.toString('latin1').trimEnd().endsWith(`--${boundary}--`)).toBe(true);
    expect(request!.body.includes(`filename="${file.name}"`)).toBe(true);
  });

  test('continues where it was when the network is cut, again and again', async () => {
    const relay = await network();
    const { target, file, hash } = upload(20 * MIB);
    const cuts = [3, 5, 9].map((mib) => mib * MIB);
    let next = 0;
    cutAfter(relay, cuts[0]!);
    const response = await resumableFetch(
      relay.url + target,
      { body: file },
      {
        retry: () => {
          next += 1;
          if (cuts[next]) cutAfter(relay, cuts[next]!);
          return 10;
        },
      },
    );
    expect(response.status).toBe(200);
    expect(next).toBeGreaterThanOrEqual(3);
    expectOneRequest(proxy, target, { hash });
  });

  test('pauses with its signal, and the same call continues', async () => {
    const { target, file, hash } = upload(20 * MIB);
    const store = new MemoryStore();
    const pause = new AbortController();
    const onProgress = ({ loaded }: Progress): void => {
      if (loaded > 0) pause.abort();
    };
    const paused = resumableFetch(proxy.base + target, { body: file }, { store, signal: pause.signal, onProgress });
    await expect(paused).rejects.toMatchObject({ name: 'AbortError' });
    expect(proxy.requestsFor(target)).toEqual([]);
    const first: Progress[] = [];
    const response = await resumableFetch(
      proxy.base + target,
      { body: file },
      {
        store,
        onProgress: (at) => first.push(at),
      },
    );
    expect(response.status).toBe(200);
    expect(first[0]!.loaded).toBeGreaterThanOrEqual(4 * MIB);
    expectOneRequest(proxy, target, { hash });
  });

  test('keeps nothing of content without a name, or without a store', async () => {
    const store = new MemoryStore();
    const set: string[] = [];
    store.set = (key) => (set.push(key), store);
    await resumableFetch(`${proxy.base}${upload(0).target}`, { body: 'text' }, { store });
    await resumableFetch(`${proxy.base}${upload(0).target}`, { body: upload(5).file }, { store: null });
    expect(set).toEqual([]);
    await resumableFetch(`${proxy.base}${upload(0).target}`, { body: 'text' }, { store, key: 'note' });
    expect(set.every((key) => key.endsWith(' 4 note'))).toBe(true);
    expect(set).not.toEqual([]);
  });

  test('begins anew when its upload has expired or was cancelled before its end was sent', async () => {
    const { target, file, hash } = upload(6 * MIB);
    const store = new MemoryStore();
    const pause = new AbortController();
    const onProgress = ({ loaded }: Progress): void => (loaded > 0 ? pause.abort() : undefined);
    const paused = resumableFetch(proxy.base + target, { body: file }, { store, signal: pause.signal, onProgress });
    await expect(paused).rejects.toMatchObject({ name: 'AbortError' });
    const headers = { 'Upload-Draft-Interop-Version': '10' };
    expect((await fetch(store.url, { method: 'DELETE', headers })).status).toBe(204);
    const response = await resumableFetch(proxy.base + target, { body: file }, { store, ...retryAtOnce });
    expect(response.status).toBe(200);
    expectOneRequest(proxy, target, { hash });
  });
});

describe('limits', () => {
  test('the largest append of the server is obeyed', async () => {
    const { target, file, hash } = upload(5 * MIB + 17);
    expect((await resumableFetch(limited.base + target, { body: file })).status).toBe(200);
    expectOneRequest(limited, target, { hash });
  });

  test('content beyond the largest size is refused before it is sent', async () => {
    const { target, file } = upload(9 * MIB);
    const response = await resumableFetch(limited.base + target, { body: file }, retryAtOnce);
    expect(response.status).toBe(413);
    expect(limited.requestsFor(target)).toEqual([]);
  });

  test('appends shrink until they pass a hop that refuses large bodies', async () => {
    const hop = await startLimitingHop(proxy.app.url, 1_000_000);
    const { target, file, hash } = upload(10 * MIB);
    const response = await resumableFetch(hop.url + target, { body: file }, retryAtOnce);
    await hop.close();
    expect(response.status).toBe(200);
    expectOneRequest(proxy, target, { hash });
    // 4, 2 and 1 MiB are refused once each; larger ones are not tried again.
    expect(hop.sizes.filter((size) => size > 1_000_000)).toEqual([4 * MIB, 2 * MIB, MIB]);
  });

  test('a hop that refuses even small bodies ends the upload with its refusal', async () => {
    const hop = await startLimitingHop(proxy.app.url, 1000);
    const { target, file } = upload(MIB);
    const response = await resumableFetch(hop.url + target, { body: file }, retryAtOnce);
    expect(await response.text()).toBe('too large');
    await hop.close();
    expect(response.status).toBe(413);
    expect(proxy.requestsFor(target)).toEqual([]);
  });
});

describe('answers of the origin', () => {
  test.each([422, 500, 404])('%d with its body ends the upload', async (status) => {
    const { target, file, hash } = upload(100);
    proxy.answer(target, { status, headers: [['Content-Type', 'text/plain']], body: 'not a film' });
    const store = new MemoryStore();
    const response = await resumableFetch(proxy.base + target, { body: file }, { store, ...retryAtOnce });
    expect(response.status).toBe(status);
    expect(await response.text()).toBe('not a film');
    expectOneRequest(proxy, target, { hash });
    expect(store.size).toBe(0);
  });

  test('an answer that was lost on its way is asked for again', async () => {
    const relay = await network();
    const { target, file, hash } = upload(1000);
    proxy.answer(target, async () => {
      await relay.cut();
      await relay.restore();
      return { status: 201, body: 'film 8' };
    });
    const response = await resumableFetch(relay.url + target, { body: file }, retryAtOnce);
    expect(response.status).toBe(201);
    expect(await response.text()).toBe('film 8');
    expectOneRequest(proxy, target, { hash });
  });

  test('an answer that came while the client was away is given to a later call', async () => {
    const relay = await network();
    const { target, file, hash } = upload(1000);
    const store = new MemoryStore();
    const pause = new AbortController();
    proxy.answer(target, () => {
      pause.abort();
      return { status: 201, body: 'film 9' };
    });
    const paused = resumableFetch(relay.url + target, { body: file }, { store, signal: pause.signal });
    await expect(paused).rejects.toMatchObject({ name: 'AbortError' });
    await until(() => proxy.requestsFor(target)[0]?.finished ?? false, 'the origin to have answered');
    const response = await resumableFetch(relay.url + target, { body: file }, { store, ...retryAtOnce });
    expect(response.status).toBe(201);
    expect(await response.text()).toBe('film 9');
    expectOneRequest(proxy, target, { hash });
    expect(store.size).toBe(0);
  });

  test('an origin that cannot be reached for a while gets the request later', async () => {
    const { target, file } = upload(1000);
    let times = 0;
    proxy.answer(target, () => ({ status: (times += 1) < 3 ? 503 : 201, body: 'at last' }));
    const response = await resumableFetch(proxy.base + target, { body: file }, retryAtOnce);
    expect(response.status).toBe(201);
    expect(times).toBe(3);
  });

  test('a request that the origin may have processed is not sent again without the caller', async () => {
    const { target, file, hash } = upload(1000);
    let times = 0;
    proxy.answer(target, () => ((times += 1) === 1 ? { hangUp: true } : { status: 201, body: 'again' }));
    const store = new MemoryStore();
    const call = (): Promise<Response> =>
      resumableFetch(proxy.base + target, { body: file }, { store, ...retryAtOnce });
    const response = await call();
    expect(response.status).toBe(503);
    expect(await response.text()).toContain('may have taken it');
    expectOneRequest(proxy, target, { hash });
    expect(store.size).toBe(1);
    // The caller was told, and asks for it once more.
    const statuses = [(await call()).status, (await call()).status];
    expect(statuses.at(-1)).toBe(201);
    expect(times).toBe(2);
  });

  test('an upload that is gone after its end was sent is not sent anew', async () => {
    const { target, file } = upload(1000);
    const store = new MemoryStore();
    const pause = new AbortController();
    proxy.answer(target, () => {
      pause.abort();
      return { status: 201 };
    });
    const paused = resumableFetch(proxy.base + target, { body: file }, { store, signal: pause.signal });
    await expect(paused).rejects.toMatchObject({ name: 'AbortError' });
    await until(() => proxy.requestsFor(target)[0]?.finished ?? false, 'the origin to have answered');
    const headers = { 'Upload-Draft-Interop-Version': '10' };
    await fetch(store.url, { method: 'DELETE', headers });
    const response = await resumableFetch(proxy.base + target, { body: file }, { store, ...retryAtOnce });
    expect(response.status).toBe(404);
    expect(proxy.requestsFor(target)).toHaveLength(1);
    expect(store.size).toBe(0);
  });
});

describe('the end without an answer', () => {
  test('comes when the attempts end, with the last error as the cause', async () => {
    const relay = await network();
    await relay.cut();
    const { target, file } = upload(10);
    const failures: number[] = [];
    const sent = resumableFetch(
      relay.url + target,
      { body: file },
      {
        retry: (count) => (failures.push(count), count < 4 ? 1 : undefined),
      },
    );
    await expect(sent).rejects.toMatchObject({
      message: 'Too many attempts failed.',
      cause: { message: 'fetch failed' },
    });
    expect(failures).toEqual([1, 2, 3, 4]);
  });

  test('comes at once from a server that takes no resumable uploads', async () => {
    const origin = await startTestOrigin({ status: 201, headers: [['Location', '/1']] });
    const sent = resumableFetch(`${origin.url}/x`, { body: upload(10).file });
    await expect(sent).rejects.toThrow(`${origin.url}/x takes no resumable uploads`);
    await origin.close();
  });
});
