// Uploads a file from an app on iOS 17 or macOS 14 and newer, also while the app is suspended.
//
// URLSession implements the protocol, so this file contains nothing of it. No test builds it. It relies on these facts:
//
// 1. URLSession marks every upload task as resumable. A 104 with the upload's URL is the only thing that lets it resume;
//    without one it uploads as usual. So everything between the phone and rufh-proxy must relay 104: docs/deployment.md.
// 2. After an interruption it asks for the offset (HEAD) and sends all of the rest (PATCH), with the headers of the
//    first request, such as Authorization. It never sends pieces, so limits on the size of a body apply to all of the rest.
// 3. Only a lost connection leads to another try. A final response ends the task, whatever its status.
// 4. A background session continues while the app is suspended. It takes a file, not Data or a stream, and a delegate, not
//    a completion handler or async. The file must not change until the end.
// 5. In other sessions the system resumes after a short interruption only; a longer one ends the task with resume data
//    in its error. Resume data can be used once.
import Foundation

final class Uploader: NSObject, URLSessionDataDelegate {
    static let shared = Uploader()

    private lazy var session: URLSession = {
        let configuration = URLSessionConfiguration.background(withIdentifier: "org.example.uploads")
        configuration.sessionSendsLaunchEvents = true
        return URLSession(configuration: configuration, delegate: self, delegateQueue: .main)
    }()
    /// What the API has answered so far, for each task. Only the main queue uses it.
    private var answers: [Int: Data] = [:]

    /// Call it at every launch: the session must exist so that the system can report tasks that ended without the app.
    func connect() {
        _ = session
    }

    func upload(_ file: URL, to target: URL, token: String) -> URLSessionUploadTask {
        var request = URLRequest(url: target)
        request.httpMethod = "PUT"
        request.setValue("application/octet-stream", forHTTPHeaderField: "Content-Type")
        request.setValue("Bearer \(token)", forHTTPHeaderField: "Authorization")
        let task = session.uploadTask(with: request, fromFile: file)
        task.resume()
        return task
    }

    /// Stops a task for now. Without resume data (no 104 has arrived) it cannot continue.
    func pause(_ task: URLSessionUploadTask) async -> Data? {
        await task.cancelByProducingResumeData()
    }

    func goOn(with resumeData: Data) -> URLSessionUploadTask {
        let task = session.uploadTask(withResumeData: resumeData)
        task.resume()
        return task
    }

    /// Shows whether the 104 arrives; URLSession needs nothing from here.
    func urlSession(_ session: URLSession, task: URLSessionTask, didReceiveInformationalResponse response: HTTPURLResponse) {
        print("\(response.statusCode): the upload is at \(response.value(forHTTPHeaderField: "Location") ?? "-")")
    }

    func urlSession(_ session: URLSession, dataTask: URLSessionDataTask, didReceive data: Data) {
        answers[dataTask.taskIdentifier, default: Data()].append(data)
    }

    func urlSession(_ session: URLSession, task: URLSessionTask, didCompleteWithError error: (any Error)?) {
        let answer = answers.removeValue(forKey: task.taskIdentifier) ?? Data()
        guard let error else {
            // A 502, 503 or 504 may come from a proxy in between; only a new task tries again.
            let status = (task.response as? HTTPURLResponse)?.statusCode ?? 0
            print("\(status): \(String(decoding: answer, as: UTF8.self))")
            return
        }
        // A task that was paused ends here too; `pause` has its resume data already.
        guard (error as? URLError)?.code != .cancelled else { return }
        if let resumeData = (error as? URLError)?.uploadTaskResumeData {
            _ = goOn(with: resumeData)
        } else {
            print("The upload has to begin anew: \(error.localizedDescription)")
        }
    }
}
