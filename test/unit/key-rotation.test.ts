import { expect, test } from '@jest/globals';
import type { Upload } from '../../src/model/upload.js';
import { uploadIdOf } from '../../src/model/upload-id.js';
import { KeyRing, sealingKey } from '../../src/secrets/key-ring.js';
import { UploadSecrets } from '../../src/secrets/upload-secrets.js';
import { KeyRotation } from '../../src/uploads/key-rotation.js';

test('older keys of the configuration are still needed while a record is sealed with one', async () => {
  let keys = [sealingKey('the-older-of-the-keys')];
  const ring = new KeyRing(() => keys);
  const secrets = new UploadSecrets({ ring, fields: ['authorization'], keep: true, uploadsPath: '/.uploads/' });
  const headers = [['Authorization', 'Bearer one']] as const;
  const id = uploadIdOf('A'.repeat(32));
  const upload = secrets.withhold({ id, request: { method: 'POST', target: '/', headers } } as unknown as Upload);
  keys = [sealingKey('the-newer-of-the-keys'), ...keys];
  const rotation = new KeyRotation({
    store: { list: () => Promise.resolve({ uploads: [upload] }), reseal: () => Promise.resolve('gone') },
    setAsideRecords: () => Promise.resolve([]),
    ...{ ring, secrets, isShared: true, credentialsOf: () => undefined, clock: Date.now },
  });
  expect(await rotation.dropOlderKeys()).toEqual({ kind: 'in-use', uploads: 1 });
});
