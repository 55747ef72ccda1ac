import { expect, test } from '@jest/globals';
import { DeliveryClaim } from '../../src/delivery/claim.js';
import { Fault } from '../../src/model/fault.js';
import { silentLog } from '../../src/observe/log.js';
import { retryWhileUnavailable } from '../../src/store/upload-store.js';
import { until } from '../support/temporary.js';

test('asks nothing any more once it is released, also when the store comes back within a renewal', async () => {
  let asked = 0;
  let isStoreUnavailable = true;
  const renewClaim = (): Promise<boolean> => {
    asked++;
    return isStoreUnavailable
      ? Promise.reject(new Fault('STORE_UNAVAILABLE', 'it is away', true))
      : Promise.resolve(true);
  };
  const ask = <T>(step: () => Promise<T> | T, { signal }: { signal: AbortSignal }): Promise<T> =>
    retryWhileUnavailable(step, { signal });
  const deps = {
    store: { ask, direct: { renewClaim } } as unknown as ConstructorParameters<typeof DeliveryClaim>[1]['store'],
    worker: 'w',
    clock: Date.now,
    monotonic: () => performance.now(),
    log: silentLog(),
    claimMs: 30,
    halted: new AbortController().signal,
  };
  const claim = new DeliveryClaim('id', deps, performance.now());
  await until(() => asked > 0, 'a renewal');
  isStoreUnavailable = false;
  const before = asked;
  await claim.release();
  expect(asked).toBe(before);
  expect(claim.signal.aborted).toBe(false);
});
