import { afterEach, describe, expect, test } from '@jest/globals';
import { nodeFileSystem, useFileSystem } from '../../src/fs/files.js';
import { TRANSPORTS } from '../support/client.js';
import { FlowClient } from '../support/flow-client.js';
import { creationLines } from '../support/resumable-client.js';
import { TestProxy } from '../support/test-proxy.js';

const KIB = 1024;
const SMALL = Buffer.from(Array.from({ length: 16 * KIB }, (_, at) => at % 251));
const LARGE = Buffer.alloc(64 * KIB + 1, 'large');

describe.each(TRANSPORTS)('the bytes of a small upload over %s', (transport) => {
  let proxy: TestProxy;
  /** Reads of bytes in the spool. */
  let reads = 0;

  afterEach(async () => {
    useFileSystem();
    await proxy.close();
  });

  async function open(config: string): Promise<FlowClient> {
    proxy = await TestProxy.open({ config });
    reads = 0;
    useFileSystem({ ...nodeFileSystem, readv: (...call) => (reads++, nodeFileSystem.readv(...call)) });
    return new FlowClient(proxy, transport, '10');
  }

  async function upload(client: FlowClient, target: string, body: Buffer): Promise<number> {
    const headers = creationLines(client.dialect, { complete: true });
    return (await client.send({ method: 'POST', target, headers, body })).status;
  }

  test('go to the origin from memory, and those of a larger one from the disk', async () => {
    const client = await open('');
    expect(await upload(client, '/small', SMALL)).toBe(200);
    expect((await proxy.requestFor('/small')).body.equals(SMALL)).toBe(true);
    expect(reads).toBe(0);
    expect(await upload(client, '/large', LARGE)).toBe(200);
    expect((await proxy.requestFor('/large')).body.equals(LARGE)).toBe(true);
    expect(reads).toBeGreaterThan(0);
  });

  test('are read from the disk for a second attempt', async () => {
    const client = await open('delivery: { retry: { first_delay: 10ms } }');
    let attempts = 0;
    proxy.answer('/again', () => ({ status: ++attempts === 1 ? 503 : 201, headers: [], body: '' }));
    expect(await upload(client, '/again', SMALL)).toBe(201);
    const bodies = proxy.requestsFor('/again').map(({ body }) => body.equals(SMALL));
    expect(bodies).toEqual([true, true]);
    expect(reads).toBe(1);
  });
});
