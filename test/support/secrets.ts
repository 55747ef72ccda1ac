import { KeyRing, sealingKey } from '../../src/secrets/key-ring.js';
import { UploadSecrets, type UploadSecretsOptions } from '../../src/secrets/upload-secrets.js';

/** Secrets under a key that all tests share. */
export function testSecrets(more: Partial<UploadSecretsOptions> = {}): UploadSecrets {
  const ring = new KeyRing(() => [sealingKey('the key of every test')]);
  return new UploadSecrets({
    ring,
    fields: ['authorization', 'cookie'],
    keep: true,
    uploadsPath: '/.uploads/',
    ...more,
  });
}
