import { afterEach, beforeEach, describe, expect, test } from '@jest/globals';
import { uploadTag } from '../../src/observe/log.js';
import { answer, attempt, newUpload } from '../contract/sample-upload.js';
import { FakeDesk } from '../support/fake-desk.js';

const SECRET = 's3cret-of-the-client';

let uploadsApi: FakeDesk;
beforeEach(async () => {
  uploadsApi = await FakeDesk.start();
});
afterEach(() => uploadsApi.admin.close());

interface Listed {
  readonly uploads: readonly { readonly tag: string; readonly phase: string }[];
  readonly next?: string;
}

async function list(query = ''): Promise<Listed> {
  return (await (await fetch(`${uploadsApi.admin.url}/uploads${query}`)).json()) as Listed;
}

const tags = ({ uploads }: Listed) => uploads.map(({ tag }) => tag);

describe('the list', () => {
  test('has the newest first, a page at a time, each upload once, also while others come and go', async () => {
    const all = Array.from({ length: 7 }, () => uploadTag(uploadsApi.upload().id)).reverse();
    const first = await list('?limit=3');
    expect(tags(first)).toEqual(all.slice(0, 3));
    uploadsApi.upload();
    uploadsApi.known = uploadsApi.known.filter(({ id }) => uploadTag(id) !== all[2]);
    const second = await list(`?limit=3&after=${first.next!}`);
    const third = await list(`?limit=3&after=${second.next!}`);
    expect([...tags(second), ...tags(third)]).toEqual(all.slice(3));
    expect(third.next).toBeUndefined();
  });

  test('keeps uploads of one moment apart', async () => {
    const all = Array.from({ length: 5 }, () => uploadTag(uploadsApi.upload({ createdAt: 1 }).id)).sort();
    const first = await list('?limit=2');
    const second = await list(`?limit=3&after=${first.next!}`);
    expect([...tags(first), ...tags(second)]).toEqual(all);
  });

  test('finds the newest among more than it keeps', async () => {
    for (let count = 0; count < 250; count++) uploadsApi.upload({ createdAt: (count * 7919) % 251 });
    const newest = [...uploadsApi.known].sort((a, b) => b.createdAt - a.createdAt).map(({ id }) => uploadTag(id));
    expect(tags(await list('?limit=4'))).toEqual(newest.slice(0, 4));
  });

  test('can be of one phase', async () => {
    uploadsApi.upload();
    const undelivered = uploadsApi.upload({ phase: 'undelivered' });
    uploadsApi.upload();
    expect(tags(await list('?phase=undelivered'))).toEqual([uploadTag(undelivered.id)]);
  });

  // Issue 9, §6.
  test('can be of one tag, path, key or client', async () => {
    const { request: sample } = newUpload();
    const own = uploadsApi.upload({
      request: {
        ...sample,
        target: '/a/b?c=d',
        clientAddress: '192.0.2.7',
        headers: [...sample.headers, ['Idempotency-Key', '"the client’s own"']],
      },
    });
    const other = uploadsApi.upload();
    uploadsApi.upload({ request: { ...sample, target: '/a/b/c', clientAddress: '192.0.2.77' } });
    for (const [what, found] of [
      [uploadTag(own.id), [own]],
      ['/a/b', [own]],
      ['"the client’s own"', [own]],
      ['192.0.2.7', [own]],
      [other.deliveryKey, [other]],
      ['/files', [other]],
      ['/a', []],
      [own.id, []],
      [own.deliveryKey, []],
    ] as const)
      expect([what, tags(await list(`?find=${encodeURIComponent(what)}`))]).toEqual([
        what,
        found.map(({ id }) => uploadTag(id)),
      ]);
  });

  test('names those whose record cannot be read, and nothing can be done to them', async () => {
    const shown = uploadsApi.upload();
    const since = 1_700_000_000_000;
    const unreadable = { id: newUpload().id, state: 'unreadable', reason: 'its record: EIO in read', since } as const;
    const damaged = { id: newUpload().id, state: 'damaged', reason: 'it has no beginning', since } as const;
    uploadsApi.setAside = [unreadable, damaged];
    const views = uploadsApi.setAside.map(({ id, state, reason }) => ({
      tag: uploadTag(id),
      phase: state,
      problem: reason,
      since: '2023-11-14T22:13:20.000Z',
    }));
    const listed = await list();
    expect(tags(listed)).toEqual([uploadTag(shown.id)]);
    expect(listed).toMatchObject({ setAside: views });
    expect(await list('?phase=receiving')).not.toHaveProperty('setAside');
    for (const view of views) {
      const url = `${uploadsApi.admin.url}/uploads/${view.tag}`;
      expect(await (await fetch(url)).json()).toEqual(view);
      for (const [method, path] of [
        ['DELETE', url],
        ['POST', `${url}/redeliver`],
      ] as const) {
        const refused = await fetch(path, { method });
        expect(refused.status).toBe(view.phase === 'unreadable' ? 503 : 409);
        expect(await refused.text()).toContain(view.problem);
      }
    }
    expect(uploadsApi.asked).toEqual([]);
  });

  test('is empty when there is nothing', async () => {
    expect(await list()).toEqual({ uploads: [] });
  });

  test('tells why an upload is where it is', async () => {
    const tried = attempt(4, { endedAt: 1_700_000_000_500, reached: 'answered', status: 503 });
    uploadsApi.upload({
      phase: 'undelivered',
      length: 5,
      attempts: [tried],
      attemptCount: 4,
      undelivered: { reason: 'refused', status: 503, problem: 'the origin answered 503' },
      expiresAt: 1_700_000_100_000,
    });
    expect(await list()).toEqual({
      uploads: [
        {
          tag: uploadTag(uploadsApi.known[0]!.id),
          phase: 'undelivered',
          route: 'files',
          dialect: 'final',
          method: 'POST',
          target: '/files?name=',
          offset: 5,
          length: 5,
          attempts: 4,
          newestAttempt: {
            number: 4,
            origin: 'http://127.0.0.1:3000',
            startedAt: '2023-11-14T22:13:20.004Z',
            endedAt: '2023-11-14T22:13:20.500Z',
            reached: 'answered',
            status: 503,
          },
          undelivered: { reason: 'refused', status: 503, problem: 'the origin answered 503' },
          createdAt: '2023-11-14T22:13:20.000Z',
          expiresAt: '2023-11-14T22:15:00.000Z',
        },
      ],
    });
  });

  test.each([
    ['?phase=lost', 'phase is one of receiving, complete, delivering, answered, undelivered, cancelled, invalid.'],
    ['?limit=0', 'limit is a whole number from 1 to 1000.'],
    ['?limit=many', 'limit is a whole number from 1 to 1000.'],
    ['?find=', 'find is a tag, a path, an Idempotency-Key or the address of a client.'],
    ['?after=yesterday', 'after is the "next" of the page before.'],
    ['?order=size', 'There is no parameter "order"; known are phase, find, limit and after.'],
  ])('%s is told to be wrong', async (query, detail) => {
    const response = await fetch(`${uploadsApi.admin.url}/uploads${query}`);
    expect(response.status).toBe(400);
    expect(response.headers.get('content-type')).toBe('application/problem+json');
    expect(await response.json()).toEqual({ type: 'about:blank', title: 'Bad Request', status: 400, detail });
  });
});

test('nothing that is shown is a secret: no id, no header value, no query value, no body', async () => {
  const { request: sample } = newUpload();
  const one = uploadsApi.upload({
    phase: 'answered',
    request: {
      ...sample,
      target: `/files?signature=${SECRET}`,
      headers: [...sample.headers, ['Authorization', `Bearer ${SECRET}`], ['Cookie', SECRET], ['X-Api-Key', SECRET]],
    },
    principal: SECRET,
    addedHeaders: [['Remote-User', SECRET]],
    answer: { ...answer(3), headers: [['Set-Cookie', SECRET]] },
  });
  const listed = await (await fetch(`${uploadsApi.admin.url}/uploads`)).text();
  const shown = await (await fetch(`${uploadsApi.admin.url}/uploads/${uploadTag(one.id)}`)).text();
  for (const text of [listed, shown]) {
    expect(text).toContain(uploadTag(one.id));
    expect(text).not.toContain(SECRET);
    expect(text).not.toContain(one.id);
  }
  expect(JSON.parse(shown)).toMatchObject({
    target: '/files?signature=',
    bound: true,
    idempotencyKey: one.deliveryKey,
    request: {
      authority: 'example.test',
      client: '2001:db8::1',
      contentType: 'text/plain',
      headerNames: ['Content-Type', 'X-Twice', 'x-twice', 'Authorization', 'Cookie', 'X-Api-Key'],
    },
    status: 201,
    answer: { status: 201, reason: 'Created', headerNames: ['Set-Cookie'], bodySize: 3 },
  });
});

test('the list cannot be written to', async () => {
  const response = await fetch(`${uploadsApi.admin.url}/uploads`, { method: 'DELETE' });
  expect([response.status, response.headers.get('allow')]).toEqual([405, 'GET, HEAD']);
});
