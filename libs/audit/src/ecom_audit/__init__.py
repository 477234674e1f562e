"""The auditor: reads the three databases and the provider's book, and says what does not hold.

It imports no service: its rules are written down here once more, from the design, because an auditor that
shared the code that it audits would share its bugs.
"""
