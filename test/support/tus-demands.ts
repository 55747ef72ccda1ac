import { afterAll, beforeAll, beforeEach, describe, expect, test } from '@jest/globals';
import type { HeaderLine } from '../../src/model/headers.js';
import { requestOnce } from './client.js';
import { startTestOrigin, type TestOrigin } from './test-origin.js';
import { startTestApp, type TestApp } from './test-proxy.js';
import { expectTus, FILE, TusClient } from './tus-client.js';
import type { WireResponse } from './wire.js';

/** A sentence of tus 1.0.0 with MUST, MUST NOT or SHALL NOT, abridged to its demand. */
interface Demand {
  readonly text: string;
  /** Shows on the wire that the server does so. */
  readonly prove?: () => Promise<void>;
  /** The reason why nothing of it is the server's. */
  readonly clients?: string;
}

/** A demand on the server. */
export function server(text: string, prove: () => Promise<void>): Demand {
  return { text, prove };
}

/** A demand on the client alone. */
export function client(text: string, why: string): Demand {
  return { text, clients: why };
}

/** A section of the protocol's text, with its demands in their order. */
export interface Section {
  readonly name: string;
  /** How often the section says MUST or SHALL. */
  readonly musts: number;
  readonly demands: readonly Demand[];
}

/** One test for each demand on the server. `total`: the demands of all sections, counted in the text apart from them. */
export function testDemands(sections: readonly Section[], total: number): void {
  describe.each(sections)('$name', ({ musts, demands }) => {
    const proven = demands.flatMap(({ text, prove }) => (prove ? [[text, prove] as const] : []));
    test.each(proven)('%s', async (_, prove) => prove());

    test(`has a row for each of its ${musts} demands`, () => {
      const said = demands.map(({ text }) => text).join(' ');
      expect(said.match(/\b(?:MUST|SHALL)\b/g)).toHaveLength(musts);
    });
  });

  test(`the sections have ${total} demands`, () => {
    expect(sections.reduce((sum, { musts }) => sum + musts, 0)).toBe(total);
  });
}

export const LENGTH: HeaderLine = ['Upload-Length', String(FILE.length)];

/** A proxy with tus, and its origin; for the tests of one file. */
export class TusServer {
  origin!: TestOrigin;
  app!: TestApp;
  readonly tus = new TusClient(() => this.app.url);

  constructor() {
    beforeAll(async () => {
      this.origin = await startTestOrigin();
      this.app = await startTestApp({
        origin: this.origin.url,
        config: `limits: { max_size: 1MiB }
routes:
  - { match: { path: /draft/** }, protocols: [rufh] }
  - { match: { path: /** }, delivery: { target: "{path}?name={filename}" } }
`,
      });
    });
    afterAll(async () => {
      await this.app.stop();
      await this.origin.close();
    });
    beforeEach(() => {
      this.origin.requests.length = 0;
      this.origin.answerWith({ status: 201, body: 'stored' });
    });
  }

  options(target = '/files', headers: readonly HeaderLine[] = []): Promise<WireResponse> {
    return requestOnce(this.app.url, { method: 'OPTIONS', target, headers });
  }

  async extensions(target?: string): Promise<string[]> {
    return ((await this.options(target)).header('Tus-Extension') ?? '').split(',');
  }

  /** An upload of which the first bytes are there. */
  async begun(bytes = 1000, fields: readonly HeaderLine[] = [LENGTH]): Promise<string> {
    const target = await this.tus.create(fields);
    if (bytes > 0) expectTus(await this.tus.patch(target, 0, FILE.subarray(0, bytes)), 204);
    return target;
  }

  /** The values of fields in the response to HEAD. */
  async told(target: string, ...names: string[]): Promise<(string | undefined)[]> {
    const head = await this.tus.send('HEAD', target);
    expectTus(head, 200);
    return names.map((name) => head.header(name));
  }
}
