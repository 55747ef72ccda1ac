import { request } from 'node:http';
import { afterEach, beforeEach, describe, expect, test } from '@jest/globals';
import { Fault } from '../../src/model/fault.js';
import { uploadTag } from '../../src/observe/log.js';
import { answer, attempt, newUpload } from '../contract/sample-upload.js';
import { FakeAdmin } from '../support/fake-admin.js';

describe('listing', () => {
  const SECRET = 's3cret-of-the-client';

  let admin: FakeAdmin;
  beforeEach(async () => {
    admin = await FakeAdmin.start();
  });
  afterEach(() => admin.listener.close());

  interface Listed {
    readonly uploads: readonly { readonly tag: string; readonly phase: string }[];
    readonly next?: string;
  }

  async function list(query = ''): Promise<Listed> {
    return (await (await fetch(`${admin.listener.url}/uploads${query}`)).json()) as Listed;
  }

  const tags = ({ uploads }: Listed) => uploads.map(({ tag }) => tag);

  describe('the list', () => {
    test('has the newest first, a page at a time, each upload once, also while others come and go', async () => {
      const all = Array.from({ length: 7 }, () => uploadTag(admin.upload().id)).reverse();
      const first = await list('?limit=3');
      expect(tags(first)).toEqual(all.slice(0, 3));
      admin.upload();
      admin.known = admin.known.filter(({ id }) => uploadTag(id) !== all[2]);
      const second = await list(`?limit=3&after=${first.next!}`);
      const third = await list(`?limit=3&after=${second.next!}`);
      expect([...tags(second), ...tags(third)]).toEqual(all.slice(3));
      expect(third.next).toBeUndefined();
    });

    test('keeps uploads of one moment apart', async () => {
      const all = Array.from({ length: 5 }, () => uploadTag(admin.upload({ createdAt: 1 }).id)).sort();
      const first = await list('?limit=2');
      const second = await list(`?limit=3&after=${first.next!}`);
      expect([...tags(first), ...tags(second)]).toEqual(all);
    });

    test('finds the newest among more than it keeps', async () => {
      for (let count = 0; count < 250; count++) admin.upload({ createdAt: (count * 7919) % 251 });
      const newest = [...admin.known].sort((a, b) => b.createdAt - a.createdAt).map(({ id }) => uploadTag(id));
      expect(tags(await list('?limit=4'))).toEqual(newest.slice(0, 4));
    });

    test('can be of one phase', async () => {
      admin.upload();
      const undelivered = admin.upload({ phase: 'undelivered' });
      admin.upload();
      expect(tags(await list('?phase=undelivered'))).toEqual([uploadTag(undelivered.id)]);
    });

    // Issue 9, §6.
    test('can be of one tag, path, key or client', async () => {
      const { request: sample } = newUpload();
      const own = admin.upload({
        request: {
          ...sample,
          target: '/a/b?c=d',
          clientAddress: '192.0.2.7',
          headers: [...sample.headers, ['Idempotency-Key', '"the client’s own"']],
        },
      });
      const other = admin.upload();
      admin.upload({ request: { ...sample, target: '/a/b/c', clientAddress: '192.0.2.77' } });
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
      const shown = admin.upload();
      const since = 1_700_000_000_000;
      const unreadable = { id: newUpload().id, state: 'unreadable', reason: 'its record: EIO in read', since } as const;
      const damaged = { id: newUpload().id, state: 'damaged', reason: 'it has no beginning', since } as const;
      admin.setAside = [unreadable, damaged];
      const views = admin.setAside.map(({ id, state, reason }) => ({
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
        const url = `${admin.listener.url}/uploads/${view.tag}`;
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
      expect(admin.asked).toEqual([]);
    });

    test('is empty when there is nothing', async () => {
      expect(await list()).toEqual({ uploads: [] });
    });

    test('tells why an upload is where it is', async () => {
      const tried = attempt(4, { endedAt: 1_700_000_000_500, reached: 'answered', status: 503 });
      admin.upload({
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
            tag: uploadTag(admin.known[0]!.id),
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
      ['?after=yesterday', 'after is the "next" of the previous page.'],
      ['?order=size', 'There is no parameter "order"; known: phase, find, limit, after.'],
    ])('%s is told to be wrong', async (query, detail) => {
      const response = await fetch(`${admin.listener.url}/uploads${query}`);
      expect(response.status).toBe(400);
      expect(response.headers.get('content-type')).toBe('application/problem+json');
      expect(await response.json()).toEqual({ type: 'about:blank', title: 'Bad Request', status: 400, detail });
    });
  });

  test('nothing that is shown is a secret: no id, no header value, no query value, no body', async () => {
    const { request: sample } = newUpload();
    const one = admin.upload({
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
    const listed = await (await fetch(`${admin.listener.url}/uploads`)).text();
    const shown = await (await fetch(`${admin.listener.url}/uploads/${uploadTag(one.id)}`)).text();
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
    const response = await fetch(`${admin.listener.url}/uploads`, { method: 'DELETE' });
    expect([response.status, response.headers.get('allow')]).toEqual([405, 'GET, HEAD']);
  });
});

describe('actions', () => {
  let admin: FakeAdmin;
  beforeEach(async () => {
    admin = await FakeAdmin.start();
  });
  afterEach(() => admin.listener.close());

  describe('one upload', () => {
    const at = (tag: string, verb = '') => `${admin.listener.url}/uploads/${tag}${verb}`;

    test('is cancelled', async () => {
      admin.upload();
      const { id } = admin.upload();
      const response = await fetch(at(uploadTag(id)), { method: 'DELETE' });
      expect([response.status, await response.text(), admin.asked]).toEqual([204, '', [`cancel ${id}`]]);
    });

    test.each([
      [{ reason: 'unknown-upload' } as const, 404, 'The upload has just ended.'],
      [{ reason: 'gone', detail: '' } as const, 410, 'The upload has ended already and is about to be removed.'],
    ])('that cannot be cancelled, %j, is %i', async (refusal, status, detail) => {
      admin.outcome = { kind: 'refused', refusal };
      const response = await fetch(at(uploadTag(admin.upload().id)), { method: 'DELETE' });
      expect([response.status, await response.json()]).toEqual([status, expect.objectContaining({ status, detail })]);
    });

    test('is delivered again', async () => {
      const { id } = admin.upload({ phase: 'undelivered' });
      const response = await fetch(at(uploadTag(id), '/redeliver'), { method: 'POST' });
      expect([response.status, await response.json()]).toEqual([202, { tag: uploadTag(id) }]);
      expect(admin.asked).toEqual([`redeliver ${id}`]);
    });

    // Issue 9, §6.
    test.each([
      ['DELETE', '', '', undefined, 'an operator cancelled an upload', 'cancel'],
      ['DELETE', '', '?operator=Ada%20L.', 'Ada L.', 'an operator cancelled an upload', 'cancel'],
      ['POST', '/redeliver', '', undefined, 'an operator redelivered an upload', 'redeliver'],
      ['POST', '/redeliver', '?past_gate=false&operator=Ada', 'Ada', 'an operator redelivered an upload', 'redeliver'],
      [
        'POST',
        '/redeliver',
        '?past_gate=true&operator=Zo%C3%AB',
        'Zoë',
        'an operator redelivered an upload, bypassing its gate',
        'redeliver',
      ],
    ])('is noted with who does it: %s %s%s', async (method, verb, query, operator, msg, done) => {
      const { id, deliveryKey } = admin.upload({ phase: 'undelivered' });
      expect((await fetch(at(uploadTag(id), `${verb}${query}`), { method })).ok).toBe(true);
      expect(admin.asked).toEqual([`${done} ${id}${msg.includes('bypassing') ? ' past its gate' : ''}`]);
      const level = msg.includes('bypassing') ? 'warn' : 'info';
      const handles = {
        upload: uploadTag(id),
        uploadPath: '/files?name=',
        idempotencyKey: deliveryKey,
        client: '2001:db8::1',
      };
      const line = { level, time: expect.any(String), ...handles, ...(operator ? { operator } : {}), msg };
      expect(admin.log).toEqual([line]);
    });

    test.each([
      ['DELETE', '', '?past_gate=true', 'There is no parameter "past_gate"; known: operator.'],
      ['DELETE', '', '?operator=', 'operator is a name of up to 100 characters.'],
      ['DELETE', '', '?operator=a%0Ab', 'operator is a name of up to 100 characters.'],
      ['POST', '/redeliver', `?operator=${'a'.repeat(101)}`, 'operator is a name of up to 100 characters.'],
      ['POST', '/redeliver', '?past-gate=true', 'There is no parameter "past-gate"; known: operator, past_gate.'],
      ['POST', '/redeliver', '?past_gate=yes&operator=a', 'past_gate is true or false.'],
      [
        'POST',
        '/redeliver',
        '?past_gate=true',
        'past_gate=true needs operator=NAME, because the log names who skipped a gate.',
      ],
    ])('is not touched by what is not understood: %s %s%s', async (method, verb, query, detail) => {
      const { id } = admin.upload({ phase: 'undelivered' });
      const response = await fetch(at(uploadTag(id), `${verb}${query}`), { method });
      expect([response.status, await response.json()]).toEqual([400, expect.objectContaining({ detail })]);
      expect([admin.asked, admin.log]).toEqual([[], []]);
    });

    test.each([
      ['unknown', 404, /has ended/],
      ['incomplete', 409, /not complete yet/],
      ['answered', 409, /answered already, by its origin or by its gate/],
      ['stopping', 503, /being stopped/],
    ] as const)('that cannot be delivered again, %s, is %i', async (why, status, detail) => {
      admin.redelivery = why;
      const response = await fetch(at(uploadTag(admin.upload().id), '/redeliver'), { method: 'POST' });
      expect([response.status, await response.json()]).toEqual([
        status,
        expect.objectContaining({ status, detail: expect.stringMatching(detail) }),
      ]);
    });

    test.each([
      ['DELETE', ''],
      ['POST', '/redeliver'],
    ])(
      'whose bytes are with another node is not touched by %s, and the answer says where to ask',
      async (method, verb) => {
        admin.node = 'here';
        admin.nodes.set('there', { url: 'http://10.0.0.5:8081' });
        const path = at(uploadTag(admin.upload({ node: 'there', phase: 'undelivered' }).id), verb);
        const response = await fetch(path, { method });
        const detail = expect.stringMatching(/node there, which the others reach at http:\/\/10\.0\.0\.5:8081\. Ask/);
        expect([response.status, await response.json()]).toEqual([409, expect.objectContaining({ detail })]);
        await admin.nodes.forget('there');
        expect((await fetch(path, { method })).status).toBe(409);
        expect(admin.asked).toEqual([]);
        expect((await fetch(at(uploadTag(admin.known[0]!.id)))).status).toBe(200);
      },
    );

    test('in a spool that others share is not touched by a node with its own', async () => {
      admin.node = 'here';
      const response = await fetch(at(uploadTag(admin.upload().id)), { method: 'DELETE' });
      expect([response.status, admin.asked]).toEqual([409, []]);
    });

    test('that nobody can look up right now is 503, and why', async () => {
      admin.fault = new Fault('STORE_UNAVAILABLE', 'Redis does not answer', true);
      const response = await fetch(at('0123456789'));
      expect([response.status, response.headers.get('retry-after')]).toEqual([503, '5']);
      expect(await response.json()).toMatchObject({ detail: expect.stringMatching(/Redis does not answer/) });
    });

    test('whose tag another one has too is not touched', async () => {
      const { id } = admin.upload();
      admin.upload({ id });
      const response = await fetch(at(uploadTag(id)), { method: 'DELETE' });
      expect([response.status, admin.asked]).toEqual([409, []]);
    });

    test.each(['0123456789', '', '%2e%2e', 'nonsense'])('with the tag "%s" is 404', async (tag) => {
      const { id } = admin.upload();
      const response = await fetch(at(tag));
      expect([response.status, await response.json()]).toEqual([404, expect.objectContaining({ status: 404 })]);
      expect((await fetch(at(id))).status).toBe(404);
    });

    test.each([
      ['POST', '', 'GET, HEAD, DELETE'],
      ['GET', '/redeliver', 'POST'],
      ['DELETE', '/redeliver', 'POST'],
    ])('%s %s is 405', async (method, verb, allowed) => {
      const response = await fetch(at(uploadTag(admin.upload().id), verb), { method });
      expect([response.status, response.headers.get('allow'), admin.asked]).toEqual([405, allowed, []]);
    });

    test.each(['/other', '/redeliver/now'])('has nothing at %s', async (verb) => {
      expect((await fetch(at(uploadTag(admin.upload().id), verb), { method: 'POST' })).status).toBe(404);
    });
  });

  describe('a web page in an operator’s browser', () => {
    /** Unlike fetch, this sends the `Host` it is told. */
    function send(method: string, path: string, headers: Record<string, string>): Promise<number | undefined> {
      return new Promise((resolve, reject) => {
        const sent = request(`${admin.listener.url}${path}`, { method, headers }, (response) => {
          response.resume();
          resolve(response.statusCode);
        });
        sent.on('error', reject).end();
      });
    }

    test.each([
      ['DELETE', ''],
      ['POST', '/redeliver'],
    ])('changes nothing with %s, from whatever origin', async (method, verb) => {
      const path = `/uploads/${uploadTag(admin.upload().id)}${verb}`;
      for (const origin of ['https://evil.example', 'null', admin.listener.url])
        expect(await send(method, path, { Origin: origin })).toBe(403);
      expect(admin.asked).toEqual([]);
    });

    test('that calls this machine by its own name reads nothing either', async () => {
      expect(await send('GET', '/uploads', { Host: 'evil.example:9090' })).toBe(403);
      for (const host of ['localhost:9090', '127.0.0.1', '[::1]:9090'])
        expect(await send('GET', '/uploads', { Host: host })).toBe(200);
    });
  });

  test('while the proxy still starts, uploads are 503 and health is told', async () => {
    admin.isOpen = false;
    const response = await fetch(`${admin.listener.url}/uploads`);
    expect([response.status, response.headers.get('retry-after')]).toEqual([503, '1']);
    expect((await fetch(`${admin.listener.url}/healthz`)).status).toBe(200);
  });
});
