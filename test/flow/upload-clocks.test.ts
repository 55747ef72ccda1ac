import { afterEach, beforeEach, expect, jest, test } from '@jest/globals';
import { framed, Stage } from '../support/stage.js';
import { StageClient } from '../support/stage-client.js';
import { randomBytes } from '../support/temporary.js';
import { told } from '../support/told.js';
import type { WireResponse } from '../support/wire-response.js';

const SECOND = 1000;
const DAY = 86_400 * SECOND;
const BYTES = randomBytes(100_000);
const { length } = BYTES;
const OK = { status: 200, lines: framed([], 'ok'), body: 'ok' };

let stage: Stage;
let stepMs: number;

beforeEach(async () => {
  stepMs = 0;
  const { now } = Date;
  // Before the proxy starts: it takes the function.
  jest.spyOn(Date, 'now').mockImplementation(() => now() + stepMs);
  stage = await Stage.open();
});

afterEach(async () => {
  await stage.close();
  jest.restoreAllMocks();
});

/** Its Date is of the origin, whose clock was not set. */
function expectOk(response: WireResponse): void {
  const { status, body } = response;
  expect([status, body.toString(), response.header('Upload-Complete')]).toEqual([200, 'ok', '?1']);
}

// Issue 8: a clock set forward by a day made every upload a 410, also one whose answer its client had not heard yet.
test.each([20 * SECOND, -20 * SECOND, DAY, -DAY, 400 * DAY])(
  'a clock that is set by %s ms ends no upload, and no answer is forgotten',
  async (step) => {
    const client = new StageClient(stage, 'HTTP/1.1', '10');
    const { expected } = client;
    const begun = await client.place({ target: '/begun', length });
    await begun.append(BYTES.subarray(0, 40_000), { offset: 0, complete: false });
    const answered = await client.place({ target: '/answered', length });
    expect(told(await answered.append(BYTES, { offset: 0, complete: true }))).toEqual(expected.answered(OK, length));
    stepMs = step;
    const seen = await begun.retrieve();
    expect([seen.status, seen.header('Upload-Offset')]).toEqual([204, '40000']);
    const again = await answered.append(Buffer.alloc(0), { offset: length, complete: true });
    expectOk(again);
    const rest = await begun.append(BYTES.subarray(40_000), { offset: 40_000, complete: true });
    expectOk(rest);
    expect(stage.requestsFor('/answered')).toHaveLength(1);
    expect(stage.requestsFor('/begun')).toHaveLength(1);
  },
);
