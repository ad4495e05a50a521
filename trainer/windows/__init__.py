"""Windows of events: what people did, assembled from Kafka into files, each event in one of them.

    Kafka ──▶ writer.py ──▶ assembler.py ──▶ store.py ──▶ files.py ──▶ a folder, S3, ...
              (consumes)    (pure: which     (a window    (whole,
                             window, when)    is one, or   or absent)
                                              is not)

`docs/decisions/0012-windows.md` argues why each event is in exactly one window, also after kill -9.
"""
