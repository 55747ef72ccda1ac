import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { uploadTag } from '../../src/observe/log.js';
import { openRequest, TRANSPORTS, exchangeOver, type OpenRequest, type Transport } from '../support/open-request.js';
import type { PeerNode } from '../support/peer-node.js';
import { PeerStage } from '../support/peer-stage.js';
import { appendLines, clientDialect, creationLines, type DialectName } from '../support/resumable-client.js';
import { untilSpooled } from '../support/spooled.js';
import { randomBytes, sha256, until } from '../support/temporary.js';
import type { WireResponse } from '../support/wire-response.js';

let stage: PeerStage;
let owner: PeerNode;
let entry: PeerNode;

beforeAll(async () => {
  stage = await PeerStage.open();
  owner = await stage.node('owner-node-name');
  entry = await stage.node('entry-node-name');
});
afterAll(() => stage.close());

const BYTES = randomBytes(90_000);
const { length } = BYTES;
let flows = 0;

/** One upload whose bytes are with the owner, and its client, which speaks to the other node from then on. */
class Flow {
  readonly target = `/flow/${flows++}`;
  readonly dialect;
  path = '';

  constructor(
    readonly transport: Transport,
    dialect: DialectName = '10',
  ) {
    this.dialect = clientDialect(dialect);
  }

  create(
    url: string,
    {
      key,
      body,
      complete = false,
    }: { readonly key?: string; readonly body: string | Buffer; readonly complete?: boolean },
  ): Promise<WireResponse> {
    const keyLines = key === undefined ? [] : [['Idempotency-Key', key] as const];
    const headers = [...creationLines(this.dialect, { complete, length }), ...keyLines];
    return exchangeOver(this.transport, url, { method: 'POST', target: this.target, headers, body });
  }

  async place({ key }: { readonly key?: string } = {}): Promise<this> {
    const created = await this.create(owner.url, { key, body: '' });
    this.path = new URL(created.header('Location')!).pathname;
    return this;
  }

  get location(): string {
    return new URL(this.path, owner.url).href;
  }

  /** An append at the other node whose body is to follow. */
  append(offset: number, complete = true): Promise<OpenRequest> {
    const headers = appendLines(this.dialect, { offset, complete });
    return openRequest(this.transport, entry.url, { method: 'PATCH', target: this.path, headers });
  }

  ask(method: string, url = entry.url, more: readonly (readonly [string, string])[] = []): Promise<WireResponse> {
    const version = [['Upload-Draft-Interop-Version', this.dialect.version ?? '']] as const;
    return exchangeOver(this.transport, url, { method, target: this.path, headers: [...version, ...more] });
  }

  /** What the origin has got. */
  async delivered(): Promise<{ size: number; sha256: string }[]> {
    const whole = () =>
      stage.origin.requests.filter(({ target, ended }) => target === this.target && ended === 'whole');
    await until(() => whole().length > 0, 'the delivery');
    return whole().map(({ size, sha256: sum }) => ({ size, sha256: sum }));
  }
}

const whole = [{ size: length, sha256: sha256(BYTES) }];

describe.each(TRANSPORTS)('over %s, an upload whose bytes another node has', (transport) => {
  test('takes an append, tells its progress at once, and gives the answer of the origin', async () => {
    const flow = await new Flow(transport).place();
    const request = await flow.append(0);
    await request.send(BYTES.subarray(0, 40_000));
    await untilSpooled(owner.data, flow.location, 40_000);
    await request.send(BYTES.subarray(40_000));
    await request.end();
    const answer = await request.readFinal();
    expect([answer.status, answer.body.toString()]).toEqual([200, 'ok']);
    expect(await flow.delivered()).toEqual(whole);
    await request.close();
  });

  test('is found by the key of its client, whichever node that comes to', async () => {
    const flow = await new Flow(transport).place({ key: `"${transport}"` });
    const again = await flow.create(entry.url, { key: `"${transport}"`, body: '' });
    expect([again.status, new URL(again.header('Location')!).pathname]).toEqual([201, flow.path]);
    const first = await flow.append(0, false);
    await first.send(BYTES.subarray(0, 50_000));
    await untilSpooled(owner.data, flow.location, 50_000);
    const whole = { key: `"${transport}"`, body: BYTES, complete: true };
    const answers = [await flow.create(entry.url, whole), await flow.create(entry.url, whole)];
    expect(answers.map(({ status, body }) => [status, body.toString()])).toEqual(Array(2).fill([200, 'ok']));
    expect(answers.map(({ interims }) => new URL(interims[0]!.header('Location')!).pathname)).toEqual(
      Array(2).fill(flow.path),
    );
    expect(await flow.delivered()).toEqual([{ size: length, sha256: sha256(BYTES) }]);
    expect(stage.origin.requests.filter(({ target }) => target === flow.target)).toHaveLength(1);
    await first.close();
  });

  test('answers HEAD there as here, but for the date', async () => {
    const flow = await new Flow(transport).place();
    const [there, here] = await Promise.all([flow.ask('HEAD'), flow.ask('HEAD', owner.url)]);
    const told = ({ status, headerLines }: WireResponse) => ({
      status,
      lines: headerLines.filter(([name]) => !['date', 'upload-limit'].includes(name.toLowerCase())),
    });
    expect(told(there)).toEqual(told(here));
    expect(there.header('Upload-Offset')).toBe('0');
  });

  test('is taken over by a client that comes back to any node, and the dead one is given up', async () => {
    const flow = await new Flow(transport).place();
    const dead = await flow.append(0);
    await dead.send(BYTES.subarray(0, 30_000));
    await untilSpooled(owner.data, flow.location, 30_000);
    const head = await flow.ask('HEAD', owner.url);
    expect(head.header('Upload-Offset')).toBe('30000');
    await dead.givenUp();
    const again = await flow.append(30_000);
    await again.send(BYTES.subarray(30_000, 60_000));
    await untilSpooled(owner.data, flow.location, 60_000);
    expect((await flow.ask('HEAD')).header('Upload-Offset')).toBe('60000');
    await again.givenUp();
    const last = await flow.append(60_000);
    await last.send(BYTES.subarray(60_000));
    await last.end();
    expect((await last.readFinal()).status).toBe(200);
    expect(await flow.delivered()).toEqual(whole);
    await Promise.all([dead, again, last].map((request) => request.close()));
  });

  test('keeps what came before its client left', async () => {
    const flow = await new Flow(transport).place();
    const request = await flow.append(0);
    await request.send(BYTES.subarray(0, 20_000));
    await untilSpooled(owner.data, flow.location, 20_000);
    request.leave('reset');
    expect((await flow.ask('HEAD')).header('Upload-Offset')).toBe('20000');
    await request.close();
  });

  test('can be discovered, looked at and cancelled', async () => {
    const flow = await new Flow(transport).place();
    expect((await flow.ask('OPTIONS')).status).toBe(200);
    const status = await exchangeOver(transport, entry.url, { method: 'GET', target: `${flow.path}/status` });
    expect(JSON.parse(status.body.toString())).toMatchObject({ phase: 'receiving', offset: 0 });
    expect((await flow.ask('DELETE')).status).toBe(204);
    expect((await flow.ask('HEAD')).status).toBe(404);
    expect((await flow.ask('HEAD', owner.url)).status).toBe(404);
  });

  test('may be asked about with as many header fields as its own node takes', async () => {
    const flow = await new Flow(transport).place();
    const large = [['X-Large', 'x'.repeat(transport === 'HTTP/1.1' ? 15_900 : 40_000)]] as const;
    expect((await flow.ask('HEAD', owner.url, large)).status).toBe(204);
    expect((await flow.ask('HEAD', entry.url, large)).status).toBe(204);
  });

  test('is answered with as many header fields as its own node takes from the origin', async () => {
    const flow = await new Flow(transport).place();
    stage.origin.answerWith({ body: 'ok', headers: [['X-Large', 'x'.repeat(20_000)]] });
    try {
      const request = await flow.append(0);
      await request.send(BYTES);
      await request.end();
      const answer = await request.readFinal();
      expect([answer.status, answer.header('X-Large')?.length]).toEqual([200, 20_000]);
      await request.close();
    } finally {
      stage.origin.answerWith({});
    }
  });

  test('is sent once more when its client was told, by way of another node, that the outcome is unknown', async () => {
    const flow = await new Flow(transport).place();
    const asked = () => stage.origin.requests.filter(({ target }) => target === flow.target).length;
    stage.origin.answerWith(() => (asked() > 1 ? { status: 201, body: 'made' } : { hangUp: true }));
    try {
      const said: [number, number][] = [];
      for (const offset of [0, length, length]) {
        const request = await flow.append(offset);
        if (offset === 0) await request.send(BYTES);
        await request.end();
        const answer = await request.readFinal();
        expect(answer.header('RUFH-Unknown-End')).toBeUndefined();
        said.push([answer.status, asked()]);
        await request.close();
      }
      expect(said).toEqual([
        [503, 1],
        [201, 2],
        [201, 2],
      ]);
    } finally {
      stage.origin.answerWith({});
    }
  });

  test('is refused as it would be by its own node', async () => {
    const flow = await new Flow(transport).place();
    const request = await flow.append(7);
    await request.end();
    const answer = await request.readFinal();
    expect(answer.status).toBe(409);
    expect(JSON.parse(answer.body.toString())).toMatchObject({ 'expected-offset': 0, 'provided-offset': 7 });
    await request.close();
  });

  test('says nothing of nodes', async () => {
    const flow = await new Flow(transport).place();
    const request = await flow.append(0);
    await request.send(BYTES);
    await request.end();
    const answers = [
      await request.readFinal(),
      await flow.ask('HEAD'),
      await flow.ask('OPTIONS'),
      await flow.ask('GET'),
    ];
    const said = JSON.stringify([
      flow.path,
      answers.map(({ headerLines, body, interims }) => [headerLines, String(body), interims]),
    ]);
    expect(said).not.toMatch(/node-name/);
    // Its id is random, and may have any letters.
    expect(said.replaceAll(flow.path.split('/').at(-1)!, '')).not.toMatch(/peer/i);
    expect(said).not.toContain(new URL(owner.peerUrl).port);
    await request.close();
  });

  test('shows its client to the owner: the address, the scheme and the name it used', async () => {
    const flow = await new Flow(transport).place();
    const request = await openRequest(transport, entry.url, {
      method: 'PATCH',
      target: flow.path,
      headers: [...appendLines(flow.dialect, { offset: 0, complete: false }), ['RUFH-Peer', 'from a client']],
    });
    await request.send(BYTES.subarray(0, 10));
    await request.end();
    expect((await request.readFinal()).status).toBe(204);
    const tag = uploadTag(flow.path.split('/').at(-1)!);
    const lineOf = (node: PeerNode) =>
      until(
        () => node.log.find(({ method, target }) => method === 'PATCH' && String(target).includes(tag)),
        `the line in the log of ${node.name}`,
      );
    const version = transport === 'HTTP/1.1' ? '1.1' : '2.0';
    expect(await lineOf(owner)).toMatchObject({
      kind: 'append',
      client: '127.0.0.1',
      httpVersion: version,
      status: 204,
    });
    expect(await lineOf(entry)).toMatchObject({ kind: 'relayed', httpVersion: version, status: 204 });
    await request.close();
  });
});

test.each(TRANSPORTS)('over %s, progress is told through the other node while the body is still coming', async (by) => {
  const flow = await new Flow(by).place();
  const request = await flow.append(0);
  await request.send(BYTES.subarray(0, 10_000));
  await untilSpooled(owner.data, flow.location, 10_000);
  // It is due after a second, with the next commit.
  const pieces = setInterval(() => void request.send(BYTES.subarray(10_000, 10_010)), 50);
  const interim = await request.readInterim().finally(() => clearInterval(pieces));
  expect(interim.status).toBe(104);
  expect(Number(interim.header('Upload-Offset'))).toBeGreaterThanOrEqual(10_000);
  await request.close();
});
