import { afterEach, beforeEach, expect, test } from '@jest/globals';
import { uploadTag } from '../../src/observe/log.js';
import { startFakeOrigin, type FakeOrigin } from '../support/fake-origin.js';
import { startProxy, type ProxyProcess } from '../support/proxy.js';
import { until } from '../support/temporary.js';

const SECRET = 's3cret-of-the-client';
const credentials = { Authorization: `Bearer ${SECRET}`, Cookie: `session=${SECRET}` };
const version = { 'Upload-Draft-Interop-Version': '8' };

let origin: FakeOrigin;
let proxy: ProxyProcess;
beforeEach(async () => {
  origin = await startFakeOrigin({ headers: [['Set-Cookie', `session=${SECRET}`]], body: 'stored' });
  proxy = await startProxy({ origin: origin.url, flags: ['--log-level', 'trace'] });
});
afterEach(async () => {
  await proxy.stop();
  await origin.close();
});

/** Creates an upload with its first bytes and gives its URL. */
async function create(): Promise<string> {
  const created = await fetch(`${proxy.url}/files?signature=${SECRET}`, {
    method: 'POST',
    headers: { ...version, ...credentials, 'Upload-Complete': '?0' },
    body: 'first',
  });
  expect(created.status).toBe(201);
  return created.headers.get('location')!;
}

test('one line a request and one an upload’s end, with the upload’s tag, and no secret in any of them or in the figures', async () => {
  const url = await create();
  const id = url.slice(url.lastIndexOf('/') + 1);
  const cancelled = await create();
  await fetch(url, { method: 'HEAD', headers: { ...version, ...credentials } });
  const completed = await fetch(`${url}?signature=${SECRET}`, {
    method: 'PATCH',
    headers: {
      ...version,
      ...credentials,
      'Content-Type': 'application/partial-upload',
      'Upload-Offset': '5',
      'Upload-Complete': '?1',
    },
    body: 'second',
  });
  expect(await completed.text()).toBe('stored');
  await fetch(cancelled, { method: 'DELETE', headers: { ...version, ...credentials } });
  await fetch(`${proxy.url}/other?signature=${SECRET}`, { headers: credentials });

  const requests = () => proxy.log.filter(({ msg }) => msg === 'request');
  await until(() => requests().length >= 6, 'six lines of requests');
  expect(requests().map(({ method, kind }) => `${String(method)} ${String(kind)}`)).toEqual([
    'POST create',
    'POST create',
    'HEAD retrieve',
    'PATCH append',
    'DELETE cancel',
    'GET pass-through',
  ]);
  const ends = () => proxy.log.filter(({ msg, upload }) => msg === 'upload ended' && upload === uploadTag(id));
  await until(() => ends().length > 0, 'the line of the upload’s end');
  expect(ends()).toHaveLength(1);
  expect(requests()[3]).toMatchObject({
    upload: uploadTag(id),
    status: 200,
    target: `/.uploads/${uploadTag(id)}?signature=`,
  });

  const figures = await (await fetch(`${proxy.adminUrl}/metrics`)).text();
  expect(figures).toContain('rufh_requests_total{kind="append",method="PATCH",status="200"} 1');
  const written = [...proxy.lines, ...proxy.errors, figures].join('\n');
  for (const secret of [SECRET, id, cancelled.slice(cancelled.lastIndexOf('/') + 1)])
    expect(written).not.toContain(secret);
});
