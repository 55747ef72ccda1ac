import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { fileURLToPath } from 'node:url';
import { afterEach, expect, test } from '@jest/globals';
import { connect, requestOnce } from '../support/client.js';
import { clientDialect, createUpload } from '../support/resumable-client.js';
import { randomBytes, serverPort, sha256, until } from '../support/temporary.js';
import { startTestApp, type TestApp } from '../support/test-proxy.js';
import type { WireRequest } from '../support/wire.js';

const folder = fileURLToPath(new URL('./backends/', import.meta.url));

let backend: ChildProcess | undefined;
let app: TestApp | undefined;

afterEach(async () => {
  await app?.stop();
  app = undefined;
  backend?.kill('SIGKILL');
  backend = undefined;
});

/** Starts a backend that prints its port, or is told one. */
async function start(program: string, args: string[], port?: number): Promise<string> {
  backend = spawn(program, args, { cwd: folder, stdio: ['ignore', 'pipe', 'ignore'] });
  const url = (chosen: number): string => `http://127.0.0.1:${chosen}`;
  if (port === undefined) {
    const [line] = (await once(backend.stdout!, 'data')) as [Buffer];
    return url(Number(line.toString()));
  }
  const answers = (): Promise<boolean> =>
    connect(url(port)).then(
      (client) => (client.destroy(), true),
      () => false,
    );
  await until(answers, 'the backend to listen');
  return url(port);
}

const BACKENDS: Record<string, () => Promise<string>> = {
  'PHP, built-in server': async () => {
    const port = await serverPort();
    const limits = ['-d', 'upload_max_filesize=64M', '-d', 'post_max_size=64M'];
    return start('php', [...limits, '-S', `127.0.0.1:${port}`, 'origin.php'], port);
  },
  'Python, standard library': () => start('python3', ['origin.py']),
  'Express with multer': () => start(process.execPath, ['origin.mjs']),
};

test.each(Object.keys(BACKENDS))('%s takes a resumed upload as an ordinary form', async (name) => {
  const origin = await BACKENDS[name]!();
  const framing = '{ type: multipart, field: photo, fields: { album: "7" }, fields_from_headers: { title: X-Title } }';
  app = await startTestApp({ origin, config: `delivery: { framing: ${framing} }` });
  const url = app.url;
  const send = (request: WireRequest): ReturnType<typeof requestOnce> =>
    requestOnce(url, { ...request, headers: [['Host', 'api'], ...(request.headers ?? [])] });
  const whole = randomBytes(5 * 1024 * 1024 + 3, 7);
  const upload = await createUpload(clientDialect('6'), send, {
    method: 'POST',
    target: '/files',
    length: whole.length,
    headers: [
      ['Content-Type', 'image/jpeg'],
      ['Content-Disposition', `inline; filename="x.jpg"; filename*=UTF-8''Gr%C3%BC%C3%9Fe%201.jpg`],
      ['X-Title', Buffer.from('Süden').toString('latin1')],
    ],
    body: whole.subarray(0, 1_000_000),
  });
  const response = await upload.finish(whole, 2_000_000);
  expect(response.status).toBe(200);
  expect(JSON.parse(response.body.toString())).toEqual({
    field: 'photo',
    filename: 'Grüße 1.jpg',
    type: 'image/jpeg',
    size: whole.length,
    sha256: sha256(whole),
    fields: { album: '7', title: 'Süden' },
  });
});
