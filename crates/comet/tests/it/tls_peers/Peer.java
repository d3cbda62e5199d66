// A client of Java's TLS between its standard input and output: PORT CERTIFICATE VERSION.

import java.io.FileInputStream;
import java.io.InputStream;
import java.io.OutputStream;
import java.security.KeyStore;
import java.security.cert.CertificateFactory;
import javax.net.ssl.SSLContext;
import javax.net.ssl.SSLSocket;
import javax.net.ssl.TrustManagerFactory;

class Peer {
    public static void main(String[] arguments) throws Exception {
        KeyStore store = KeyStore.getInstance(KeyStore.getDefaultType());
        store.load(null, null);
        try (InputStream file = new FileInputStream(arguments[1])) {
            store.setCertificateEntry(
                    "server", CertificateFactory.getInstance("X.509").generateCertificate(file));
        }
        TrustManagerFactory trust =
                TrustManagerFactory.getInstance(TrustManagerFactory.getDefaultAlgorithm());
        trust.init(store);
        SSLContext context = SSLContext.getInstance("TLS");
        context.init(null, trust.getTrustManagers(), null);
        int port = Integer.parseInt(arguments[0]);
        SSLSocket socket = (SSLSocket) context.getSocketFactory().createSocket("127.0.0.1", port);
        socket.setEnabledProtocols(new String[] {"TLSv" + arguments[2]});
        socket.startHandshake();
        Thread sender = new Thread(() -> {
            try {
                copy(System.in, socket.getOutputStream());
                socket.shutdownOutput();
            } catch (Exception error) {
                error.printStackTrace();
                System.exit(1);
            }
        });
        sender.setDaemon(true);
        sender.start();
        copy(socket.getInputStream(), System.out);
    }

    private static void copy(InputStream from, OutputStream to) throws Exception {
        byte[] bytes = new byte[4096];
        for (int length; (length = from.read(bytes)) >= 0; ) {
            to.write(bytes, 0, length);
            to.flush();
        }
    }
}
