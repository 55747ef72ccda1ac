import { randomBytes } from 'node:crypto';
import type { Answer, Attempt } from '../../src/model/upload.js';
import type { NewUpload } from '../../src/store/upload-store.js';

export const HOUR = 3_600_000;

export function newId(): string {
  return randomBytes(24).toString('base64url');
}

/** An upload as a create would make it, with header values that are easily damaged on the way to a disk. */
export function newUpload(over: Partial<NewUpload> = {}): NewUpload {
  return {
    id: newId(),
    route: 'files',
    dialect: 'final',
    request: {
      method: 'POST',
      target: '/files?name=%C3%A4%0A',
      httpVersion: '1.1',
      scheme: 'http',
      authority: 'example.test',
      headers: [
        ['Content-Type', 'text/plain'],
        ['X-Twice', 'é "quoted" \\ ü'],
        ['x-twice', ''],
      ],
      peerAddress: '192.0.2.1',
      clientAddress: '2001:db8::1',
      peerIsTrusted: false,
    },
    limits: { minSize: 0, maxAgeSeconds: 3600 },
    reprDigests: [],
    deliveryKey: randomBytes(8).toString('hex'),
    createdAt: 1_700_000_000_000,
    expiresAt: Date.now() + HOUR,
    ...over,
  };
}

export function attempt(number: number, over: Partial<Attempt> = {}): Attempt {
  return { number, origin: 'http://127.0.0.1:3000', startedAt: 1_700_000_000_000 + number, ...over };
}

export function answer(bodySize: number, body: Answer['body'] = { in: 'record' }): Answer {
  return {
    status: 201,
    reason: 'Created',
    headers: [['Location', '/files/7']],
    trailers: [],
    bodySize,
    body,
    at: 1_700_000_001_000,
  };
}
