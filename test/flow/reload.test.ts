import { afterEach, beforeEach, describe, expect, test } from '@jest/globals';
import { connect, openRequest, openTunnel, requestOnce } from '../support/client.js';
import { startRawOrigin } from '../support/raw-origin.js';
import { until } from '../support/temporary.js';
import { type OriginScript, startTestOrigin, type TestOrigin } from '../support/test-origin.js';
import { startTestApp, type TestApp } from '../support/test-proxy.js';

// Issue 12: `reload`.
let origin: TestOrigin;
let app: TestApp;
beforeEach(async () => {
  origin = await startTestOrigin();
});
afterEach(async () => {
  await app.stop();
  await origin.close();
});

async function start(config = ''): Promise<void> {
  app = await startTestApp({ config: `origin: ${origin.url}\nadmin: 127.0.0.1:0\n${config}` });
}

/** Reloads with these settings in place of those of `start`. */
function reload(config: string, of = origin) {
  return app.reload(`origin: ${of.url}\nadmin: 127.0.0.1:0\n${config}`);
}

/** An answer that waits. */
function held(body: string): { script: OriginScript; release: () => void } {
  let release = (): void => undefined;
  const after = new Promise<void>((resolve) => (release = resolve));
  return { script: { body, after }, release };
}

async function statusOf(target: string, method = 'GET', body?: string): Promise<number> {
  return (await requestOnce(app.url, { method, target, ...(body === undefined ? {} : { body }) })).status;
}

async function metric(name: string): Promise<number> {
  const text = await (await fetch(`${app.adminUrl}/metrics`)).text();
  return Number(new RegExp(`^${name.replace(/[{}"]/g, '\\$&')} (\\S+)$`, 'm').exec(text)?.[1]);
}

async function uploadsListed(): Promise<number> {
  const response = await fetch(`${app.adminUrl}/uploads`);
  return ((await response.json()) as { uploads: unknown[] }).uploads.length;
}

describe('a request in progress', () => {
  test('ends at the origin where it began; the next one goes to the new origin', async () => {
    const other = await startTestOrigin({ body: 'new' });
    const answer = held('old');
    origin.answerWith(answer.script);
    await start();
    const before = requestOnce(app.url, { method: 'GET', target: '/a' });
    await until(() => origin.requests.length === 1, 'the first request');
    expect(await reload('', other)).toEqual({ kind: 'applied', changed: ['origin'], warnings: [] });
    const after = await requestOnce(app.url, { method: 'GET', target: '/b' });
    answer.release();
    expect([(await before).body.toString(), after.body.toString()]).toEqual(['old', 'new']);
    expect([origin.requests.length, other.requests.length]).toEqual([1, 1]);
    await other.close();
  });

  test('on the same connection as later ones is served by the former routes, the later ones by the new ones', async () => {
    await start('limits: { max_size: 10 }\n');
    const client = await connect(app.url);
    await client.sendHead('POST', '/x', [['Content-Length', '8']]);
    await client.send('1234');
    await until(() => origin.requests.length === 1, 'its head at the origin');
    await reload('limits: { max_size: 5 }\n');
    await client.send('5678');
    expect((await client.readFinal()).status).toBe(200);
    await client.sendHead('POST', '/x', [['Content-Length', '8']]);
    expect((await client.readFinal()).status).toBe(413);
    client.destroy();
  });

  test('that has switched protocols goes on, through any number of reloads', async () => {
    const echo = await startRawOrigin(async (exchange) => {
      await exchange.write('HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n');
      for (let round = 0; round < 3; round++) await exchange.write(await exchange.readRaw(7));
    });
    app = await startTestApp({ config: `origin: ${echo.url}\nadmin: 127.0.0.1:0\n` });
    const tunnel = await openTunnel(app.url);
    expect((await tunnel.readHead())?.status).toBe(101);
    for (let round = 0; round < 3; round++) {
      const config = `origin: ${echo.url}\nadmin: 127.0.0.1:0\nlimits: { max_size: ${round + 1} }\n`;
      expect((await app.reload(config)).kind).toBe('applied');
      await tunnel.send(`round ${round}`);
      expect((await tunnel.readRaw(7)).toString()).toBe(`round ${round}`);
    }
    tunnel.destroy();
    await echo.close();
  });

  test('whose body arrives slowly is not cut, and an upload keeps the limits with which it began', async () => {
    await start('limits: { max_size: 100 }\n');
    const head = {
      method: 'POST',
      target: '/files',
      headers: [
        ['Upload-Complete', '?1'],
        ['Content-Length', '50'],
      ],
    } as const;
    const upload = await openRequest('HTTP/1.1', app.url, { ...head, headers: [...head.headers] });
    await upload.send(Buffer.alloc(20, 1));
    await until(async () => (await uploadsListed()) === 1, 'the upload');
    await reload('limits: { max_size: 10, idle_timeout: 1s }\n');
    await upload.send(Buffer.alloc(30, 2));
    expect((await upload.readFinal()).status).toBe(200);
    expect(await statusOf('/files', 'POST', 'x'.repeat(11))).toBe(413);
  });
});

describe('a delivery', () => {
  test('goes on at the next attempt by the new routes', async () => {
    const other = await startTestOrigin({ body: 'new' });
    origin.answerWith({ status: 503, headers: [['Retry-After', '0']] });
    await start('delivery: { retry: { first_delay: 50ms, longest_delay: 100ms, attempts: 1000 } }\n');
    const upload = requestOnce(app.url, {
      method: 'POST',
      target: '/files',
      headers: [['Upload-Complete', '?1']],
      body: 'hello',
    });
    await until(() => origin.requests.length > 1, 'attempts at the first origin');
    await reload('delivery: { retry: { first_delay: 50ms, longest_delay: 100ms, attempts: 1000 } }\n', other);
    expect((await upload).body.toString()).toBe('new');
    expect(other.requests.map(({ body }) => body.toString())).toEqual(['hello']);
    await other.close();
  });

  test('that waits for its turn gets it as soon as the new limits allow', async () => {
    const answer = held('ok');
    origin.answerWith(answer.script);
    await start('delivery: { concurrency: 1 }\n');
    const send = () =>
      requestOnce(app.url, { method: 'POST', target: '/files', headers: [['Upload-Complete', '?1']], body: 'hello' });
    const both = [send(), send()];
    await until(() => metric('rufh_queued_deliveries').then((queued) => queued === 1), 'one to wait');
    await until(() => origin.requests.length === 1, 'the first one');
    await reload('delivery: { concurrency: 2 }\n');
    await until(() => origin.requests.length === 2, 'the other one');
    answer.release();
    for (const response of await Promise.all(both)) expect(response.status).toBe(200);
  });
});

describe('a configuration', () => {
  test('with mistakes is refused with all of them, and nothing changes', async () => {
    await start('limits: { max_size: 5 }\n');
    const result = await reload('limits: { max_size: many }\nalt_svc: 7\nnonsense: 1\n');
    expect(result).toMatchObject({
      kind: 'refused',
      errors: [
        { setting: 'limits.max_size', line: 3 },
        { setting: 'alt_svc', line: 4 },
        { setting: 'nonsense', line: 5 },
      ],
    });
    expect(await statusOf('/x', 'POST', '123456')).toBe(413);
    expect(app.log.filter(({ level }) => level === 'error')).toMatchObject([
      { msg: 'the configuration was refused; the former one still applies', errors: { length: 3 } },
    ]);
    expect(await metric('rufh_config_reloads_total{result="refused"}')).toBe(1);
  });

  test('that changes fixed settings is refused with all of them, also beside others', async () => {
    await start();
    const result = await reload(
      'spool: { sync: none }\nworkers: 1\nuploads: { path: /up/ }\nlimits: { max_size: 1 }\n',
    );
    const problem = 'cannot change while the proxy runs; restart it, or set the former value again';
    expect(result).toMatchObject({
      kind: 'refused',
      errors: [
        { setting: 'spool.sync', line: 3, problem },
        { setting: 'uploads.path', line: 5, problem },
      ],
    });
    expect(await statusOf('/x', 'POST', '123456')).toBe(200);
  });

  test('that can be read again after a mistake is applied', async () => {
    await start();
    expect((await reload('limits: nonsense\n')).kind).toBe('refused');
    expect(await reload('limits: { max_size: 1 }\n')).toMatchObject({ kind: 'applied', changed: ['limits.max_size'] });
    expect(await statusOf('/x', 'POST', '123456')).toBe(413);
    expect(await reload('limits: { max_size: 1 }\n')).toMatchObject({ kind: 'applied', changed: [] });
    expect(await metric('rufh_config_reloads_total{result="applied"}')).toBe(2);
    const appliedAt = await metric('rufh_config_applied_timestamp_seconds');
    expect(Math.abs(appliedAt - Date.now() / 1000)).toBeLessThan(60);
  });

  test('is not applied to a proxy that is stopping', async () => {
    const answer = held('late');
    origin.answerWith(answer.script);
    await start();
    const waiting = requestOnce(app.url, { method: 'GET', target: '/' });
    await until(() => origin.requests.length === 1, 'the request');
    const stopped = app.stop();
    expect(await reload('')).toEqual({ kind: 'failed', problem: 'the proxy is stopping' });
    answer.release();
    await Promise.all([waiting, stopped]);
  });

  test('several reloads at once are carried out one after the other', async () => {
    await start();
    const results = await Promise.all([1, 2, 3].map(() => reload('limits: { max_size: 3 }\n')));
    expect(results.map((each) => each.kind)).toEqual(['applied', 'applied', 'applied']);
    expect(results.flatMap((each) => ('changed' in each ? each.changed : []))).toEqual(['limits.max_size']);
    expect([await statusOf('/x', 'POST', '123'), await statusOf('/x', 'POST', '1234')]).toEqual([200, 413]);
  });
});
