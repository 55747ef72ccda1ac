import { createHash } from 'node:crypto';
import { expect } from '@jest/globals';
import type { HeaderLine } from '../../src/model/headers.js';
import { requestOnce } from './client.js';
import { randomBytes } from './temporary.js';
import type { WireResponse } from './wire.js';

export const TUS: HeaderLine = ['Tus-Resumable', '1.0.0'];
/** The media type of all bytes of an upload. */
export const STREAM: HeaderLine = ['Content-Type', 'application/offset+octet-stream'];
export const FILE = randomBytes(3000, 7);

/** A client of tus 1.0.0, request by request. */
export class TusClient {
  constructor(private readonly url: () => string) {}

  send(
    method: string,
    target: string,
    headers: readonly HeaderLine[] = [],
    body?: string | Uint8Array,
  ): Promise<WireResponse> {
    const length: HeaderLine[] = body === undefined ? [] : [['Content-Length', String(body.length)]];
    return requestOnce(this.url(), { method, target, headers: [TUS, ...headers, ...length], body });
  }

  /** Creates an upload, of the length of `FILE` by default, and gives its path. */
  async create(headers: readonly HeaderLine[] = [['Upload-Length', String(FILE.length)]]): Promise<string> {
    const response = await this.send('POST', '/files', headers);
    expect(response.status).toBe(201);
    return new URL(response.header('Location')!).pathname;
  }

  patch(target: string, offset: number, body: Uint8Array, headers: readonly HeaderLine[] = []): Promise<WireResponse> {
    return this.send('PATCH', target, [STREAM, ['Upload-Offset', String(offset)], ...headers], body);
  }

  async offsetOf(target: string): Promise<number> {
    return Number((await this.send('HEAD', target)).header('Upload-Offset'));
  }
}

/** Every response of the protocol names its version (Core: headers). */
export function expectTus(response: WireResponse, status: number): void {
  expect([response.status, response.header('Tus-Resumable')]).toEqual([status, '1.0.0']);
}

/** The value of `Upload-Checksum`. */
export function checksum(algorithm: string, bytes: string | Uint8Array): string {
  return `${algorithm} ${createHash(algorithm).update(bytes).digest('base64')}`;
}
