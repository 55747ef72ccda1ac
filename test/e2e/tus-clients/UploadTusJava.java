import io.tus.java.client.ProtocolException;
import io.tus.java.client.TusClient;
import io.tus.java.client.TusExecutor;
import io.tus.java.client.TusURLMemoryStore;
import io.tus.java.client.TusUpload;
import io.tus.java.client.TusUploader;
import java.io.File;
import java.io.IOException;
import java.net.URI;
import java.util.Map;

/** Uploads a file with tus-java-client, as Android apps do: UploadTusJava.java URL FILE. */
public class UploadTusJava {
  public static void main(String[] args) throws Exception {
    TusClient client = new TusClient();
    client.setUploadCreationURL(URI.create(args[0]).toURL());
    client.enableResuming(new TusURLMemoryStore());
    TusExecutor executor =
        new TusExecutor() {
          @Override
          protected void makeAttempt() throws ProtocolException, IOException {
            TusUpload upload = new TusUpload(new File(args[1]));
            upload.setMetadata(Map.of("filename", "ä b.png", "filetype", "image/png"));
            TusUploader uploader = client.resumeOrCreateUpload(upload);
            uploader.setRequestPayloadSize(1024 * 1024);
            while (uploader.uploadChunk() > -1) {}
            uploader.finish();
          }
        };
    executor.setDelays(new int[] {100, 100, 100, 100, 100, 100, 100, 100, 100, 100});
    try {
      executor.makeAttempts();
    } catch (ProtocolException failure) {
      int status = failure.getCausingConnection() == null ? 0 : failure.getCausingConnection().getResponseCode();
      System.out.println(status);
      System.exit(1);
    }
    System.out.println("done");
  }
}
