"""The REST interfaces of other recommenders: their clients ask Headwater by another address.

A dialect translates: a request becomes one of this API's own operations, and what that answers
takes the other system's form. So whatever the operations know is known here, too. What has no
counterpart is answered with a line that says so; nothing is passed over.
"""
