import { afterEach, beforeEach, expect, jest, test } from '@jest/globals';
import type { DeliveryResult } from '../../src/delivery/delivery.js';
import type { InterimUpdate } from '../../src/model/messages.js';
import type { Upload } from '../../src/model/upload.js';
import { type AnswerCall, Answers } from '../../src/uploads/answers.js';

beforeEach(() => {
  jest.useFakeTimers();
});

afterEach(() => {
  jest.useRealTimers();
});

test('a client that waits for the origin hears every ten seconds what it knows already, and nothing after the answer', async () => {
  let settle!: (result: DeliveryResult) => void;
  const result = new Promise<DeliveryResult>((resolve) => (settle = resolve));
  const told: InterimUpdate[] = [];
  const upload = { id: 'x', phase: 'delivering', offset: 5, heldBack: { lastByte: 1 } } as Upload;
  const call = {
    credentials: [],
    clientLeft: new AbortController().signal,
    sendInterim: (news: InterimUpdate) => told.push(news),
  };
  const outcome = new Answers({ result: () => result }).answer(upload, 'append', call as unknown as AnswerCall);
  jest.advanceTimersByTime(29_000);
  const news = { kind: 'progress', during: 'append', upload, offset: 4 };
  expect(told).toEqual([news, news]);
  settle({ kind: 'gone' });
  expect((await outcome).kind).toBe('refused');
  jest.advanceTimersByTime(60_000);
  expect(told.length).toBe(2);
  expect(jest.getTimerCount()).toBe(0);
});
